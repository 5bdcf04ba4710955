"""The processes of a search on this machine: started, watched, replaced when they die, stopped together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from experiments.search.worker import ALONE, INTERRUPTED, STORAGE

POLL_SECONDS = 0.25
DEATHS = 20  # of workers, after which something is wrong with the machine
STOP_SECONDS = 20


def run_workers(
    folder: Path,
    *,
    workers: int,
    storage: str | None,
    alone: bool,
    threads: int = 1,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Work on the study in `folder` with so many processes until it is done.

    Args:
        storage: URL of the storage; None: the journal in the folder.
        alone: whether no other process, here or elsewhere, works on this study.
        threads: of each worker, and no more than its fair share of the cores.
        watch: is called again and again meanwhile.
    Raises:
        ValueError: a worker says that something is to be mended, or too many of them died.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the workers are stopped and their trials queued again.
    """
    crew = _Crew(folder, workers, environment(workers, threads, storage, alone=alone))
    with terminated_like_ctrl_c():
        try:
            crew.start()
            while crew.is_at_work():
                watch()
                time.sleep(POLL_SECONDS)
        finally:
            crew.stop()
    watch()


def environment(workers: int, threads: int, storage: str | None, *, alone: bool) -> dict[str, str]:
    """What the workers inherit: each gets the threads that it asks for, and no more than its fair share."""
    kept = {name: value for name, value in os.environ.items() if name not in (STORAGE, ALONE)}
    share = {"OMP_NUM_THREADS": str(min(threads, max(1, cores() // workers)))}
    return kept | share | ({STORAGE: storage} if storage else {}) | ({ALONE: "1"} if alone else {})


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Crew:
    """The workers of one machine."""

    def __init__(self, folder: Path, workers: int, surroundings: dict[str, str]) -> None:
        self.folder, self.workers, self.surroundings = folder, workers, surroundings
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.deaths = 0

    def start(self) -> None:
        """All of them."""
        for index in range(self.workers):
            self.processes[index] = self.started(index)

    def started(self, index: int) -> subprocess.Popen[bytes]:
        """A worker in a session of its own, so that Ctrl-C in the terminal reaches it through us only."""
        with self.log(index).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "experiments.search.worker", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.surroundings,
                start_new_session=True,
            )

    def log(self, index: int) -> Path:
        """Where a worker's words go."""
        return self.folder / f"worker-{index}.log"

    def is_at_work(self) -> bool:
        """Whether anybody is; who died is replaced."""
        for index, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[index]
            if code != 0:
                self.replace(index, code)
        return bool(self.processes)

    def replace(self, index: int, code: int) -> None:
        """Start a worker anew that a signal ended; raises ValueError where that is of no use."""
        said = self.log(index).read_text(errors="replace").strip().rpartition("\n")[2]
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code > 0:
            raise ValueError(said if code == 2 else f"a worker ended with code {code}: {said} ({self.log(index)})")
        self.deaths += 1
        if self.deaths > DEATHS:
            raise ValueError(
                f"{self.deaths} workers died, the last one of {signal.Signals(-code).name}: is memory short?"
            )
        self.processes[index] = self.started(index)

    def stop(self) -> None:
        """End those that are still at work: first as Ctrl-C does, so that their trials are queued again."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def terminated_like_ctrl_c() -> Iterator[None]:
    """Within, SIGTERM does what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
