"""Independent training runs side by side, one thread each."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

_tasks: Sequence[Callable[[], object]] = ()  # what forked workers inherit: closures need no pickling


def workers_available() -> int:
    """How many runs this machine can do side by side: its cores where processes can be forked, otherwise one.

    Forking is left to Linux, as with torch's data loader: elsewhere it is missing or unsafe.
    """
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def processes(workers: int | None) -> int:
    """The number of processes that was asked for; None: as many as this machine can do side by side."""
    return workers_available() if workers is None else workers


def run_all(
    tasks: Sequence[Callable[[], T]], *, workers: int, on_done: Callable[[int], None] = lambda done: None
) -> list[T]:
    """The results of the tasks, in their order; a task's result does not depend on how many workers there are.

    Args:
        tasks: each seeds itself and returns plain data.
        workers: processes; 1 runs the tasks here.
        on_done: called with the number of finished tasks after each one.
    """
    if min(workers, len(tasks)) <= 1:
        with one_thread():
            return [_counted(task, index, on_done) for index, task in enumerate(tasks)]
    global _tasks
    _tasks = tasks
    try:
        with _forked_pool(workers) as pool:
            futures = {pool.submit(_run_task, index): index for index in range(len(tasks))}
            results: dict[int, T] = {}
            for done, future in enumerate(as_completed(futures), start=1):
                results[futures[future]] = future.result()  # type: ignore[assignment]
                on_done(done)
        return [results[index] for index in range(len(tasks))]
    finally:
        _tasks = ()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread inside: faster for small models, and the same rounding in every worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _forked_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_start_worker)
        try:
            yield pool
        except BaseException:
            for worker in multiprocessing.active_children():  # nobody will read what they are working on
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle


def _run_task(index: int) -> object:
    return _tasks[index]()


def _counted(task: Callable[[], T], index: int, on_done: Callable[[int], None]) -> T:
    result = task()
    on_done(index + 1)
    return result
