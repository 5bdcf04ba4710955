"""The observer leaves torch as it was, and keeps what it must."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils.data import DataLoader

from diagnostics.capture.observer import Observer
from diagnostics.capture.recorder import IDLE_BYTES
from diagnostics.capture.recording import Backward, Clip, Recording, Update, ZeroGrad
from diagnostics.capture.replica import replica_of
from tests.diagnostics.capture.loops import Tokens, entropy, language_model

ROOT = Path(__file__).parents[3]
ENTRIES = (
    (nn.Module, "__call__"),
    (nn.Module, "zero_grad"),
    (torch.autograd, "backward"),
    (nn.utils, "clip_grad_norm_"),
    (nn.utils.clip_grad, "clip_grad_norm_"),
    (nn.utils, "clip_grad_value_"),
    (torch.optim.Optimizer, "zero_grad"),
    (torch.amp.GradScaler, "scale"),
    (LRScheduler, "__init__"),
    (torch.autograd, "grad"),
    (torch.autograd.Function, "apply"),
    (torch.amp.GradScaler, "unscale_"),
    (nn.utils.clip_grad, "clip_grad_value_"),
    (DataLoader, "__iter__"),
)


def entries() -> list[object]:
    """What stands at every place that an observer replaces."""
    return [vars(owner)[name] for owner, name in ENTRIES]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_of_torch_stays_replaced_after_an_error(error: type[BaseException]) -> None:
    before, mode = entries(), _get_current_function_mode()
    with pytest.raises(error), Observer(Recording(name="fails")):
        language_model(after=lambda model, optimizer, step: (_ for _ in ()).throw(error()))
    assert entries() == before
    assert _get_current_function_mode() is mode


def test_nothing_stays_replaced_after_an_error_inside_a_step() -> None:
    class Fails(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            raise ValueError("inside")

    before = entries()
    with pytest.raises(ValueError, match="inside"), Observer(Recording(name="fails")):
        language_model(optimizer=lambda parameters: Fails(parameters, lr=0.1))
    assert entries() == before


def test_no_hook_of_the_optimizers_stays() -> None:
    hooks = _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    before = [dict(each) for each in hooks]
    with Observer(Recording(name="watched")):
        assert [len(each) for each in hooks] == [len(each) + 1 for each in before]
    assert [dict(each) for each in hooks] == before


def test_events_come_in_the_order_of_the_loop() -> None:
    recording = Recording(name="ordered")
    with Observer(recording):
        language_model(clip=lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))
    assert [type(each) for each in recording.events] == [ZeroGrad, Backward, Clip, Update] * 5
    assert recording.steps == 5


def test_many_forward_passes_without_a_step_keep_a_bounded_number_of_calls() -> None:
    model, observer = Tokens(), Observer(Recording(name="generates"))
    with observer, torch.no_grad():
        for _ in range(7):
            observer.recorder.idle_bytes += IDLE_BYTES // 2
            model(torch.zeros(1, 2, dtype=torch.long))
            assert len(observer.recorder.nodes) <= 7


class Fails(torch.autograd.Function):
    """Fails in its backward."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise ValueError("in backward")


def fail(*_: object) -> Any:
    raise ValueError("in forward")


def fails_in_forward() -> None:
    model = Tokens()
    model.head.register_forward_hook(fail)
    language_model(model=model)


def fails_in_backward() -> None:
    language_model(lambda model, x, y: entropy(Fails.apply(model(x)), y))


def fails_in_a_closure() -> None:
    torch.optim.SGD(Tokens().parameters(), 0.1).step(fail)


def fails_in_a_function() -> None:
    language_model(lambda model, x, y: torch.cat([model(x), torch.zeros(2)]))


def fails_in_a_data_set() -> None:
    class Broken(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return 7

        def __getitem__(self, index: int) -> Tensor:
            raise ValueError("no such row")

    list(DataLoader(Broken(), 3))


FAILURES = (fails_in_forward, fails_in_backward, fails_in_a_closure, fails_in_a_function, fails_in_a_data_set)


@pytest.mark.parametrize("failing", FAILURES)
def test_nothing_stays_replaced_wherever_a_script_fails(failing: Callable[[], None]) -> None:
    before = entries()
    with pytest.raises((ValueError, RuntimeError)), Observer(Recording(name="fails")):
        failing()
    assert all(now is then for now, then in zip(entries(), before, strict=True))
    assert _get_current_function_mode() is None


@pytest.mark.parametrize("failing", FAILURES)
def test_a_script_that_catches_a_failure_is_watched_on(failing: Callable[[], None]) -> None:
    recording = Recording(name="recovers")
    with Observer(recording):
        with pytest.raises((ValueError, RuntimeError)):
            failing()
        recording.events.clear()
        language_model()
    assert recording.steps == 5
    assert all(event.forward is not None for window in recording.windows for event in window.backwards)


class Own(TorchFunctionMode):
    """A mode of the script's own that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("cpu")
    try:
        yield
    finally:
        torch.set_default_device(None)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "none": nullcontext,
    "a device": lambda: torch.device("cpu"),
    "the default device": default_device,
    "their own": Own,
}
State = tuple[list[float], list[list[float]], list[int], float]


def state_after(watching: bool, outside: str, inside: str) -> State:
    """Losses, parameters and random states after a loop with dropout, with or without somebody watching.

    Python's own random numbers are not among them: the shape checks of the test run draw some.
    """
    torch.manual_seed(7)
    np.random.seed(7)
    watch: AbstractContextManager[Any] = Observer(Recording(name="watched")) if watching else nullcontext()
    with MODES[outside](), watch, MODES[inside]():
        losses, (model, _) = language_model(model=Tokens(dropout=0.3))
    weights = [each.flatten().tolist() for each in model.parameters()]
    return losses, weights, torch.get_rng_state().tolist(), np.random.rand()


@pytest.mark.parametrize("outside", MODES)
@pytest.mark.parametrize("inside", MODES)
def test_other_modes_outside_and_inside_change_nothing(outside: str, inside: str) -> None:
    assert state_after(True, outside, inside) == state_after(False, outside, inside)
    assert _get_current_function_mode() is None


DRAWING = """
import random
from contextlib import nullcontext
from diagnostics.capture.observer import Observer
from diagnostics.capture.recording import Recording
from tests.diagnostics.capture.loops import language_model

def drawn(watch):
    random.seed(7)
    with watch:
        language_model()
    return random.getstate()

assert drawn(nullcontext()) == drawn(Observer(Recording(name="watched")))
"""


def test_python_s_random_numbers_are_not_drawn_from() -> None:
    """In a process of its own, where nothing checks shapes."""
    subprocess.run([sys.executable, "-c", DRAWING], cwd=ROOT, check=True)


@pytest.mark.parametrize("inside", MODES)
def test_what_is_done_in_other_modes_is_played(inside: str) -> None:
    recording = Recording(name="in modes")
    with Observer(recording), MODES[inside]():
        language_model()
    assert len(replica_of(recording).batches) == 5


def test_training_in_another_thread_is_not_watched() -> None:
    recording = Recording(name="thread")
    with Observer(recording):
        model = Tokens()
        thread = threading.Thread(target=lambda: model(torch.zeros(1, 2, dtype=torch.long)).sum().backward())
        thread.start()
        thread.join()
    assert recording.events == []
    assert recording.modules == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_computes_the_same() -> None:
    with Observer(Recording(name="forks")):
        state = torch.get_rng_state()
        expected = language_model()[0]
        torch.set_rng_state(state)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if language_model()[0] == expected else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_observer_may_leave_twice() -> None:
    before, observer = entries(), Observer(Recording(name="twice"))
    with observer:
        observer.__exit__()
        assert entries() == before
    assert entries() == before


def test_two_optimizers_with_clipping_and_a_scheduler_are_noted() -> None:
    first, second = nn.Linear(5, 3), nn.Linear(3, 1)
    recording = Recording(name="two")
    with Observer(recording):
        optimizers = [torch.optim.SGD(first.parameters(), 0.1), torch.optim.AdamW(second.parameters(), 0.01)]
        scheduler = torch.optim.lr_scheduler.StepLR(optimizers[0], 1)
        second(first(torch.randn(7, 5))).square().mean().backward()
        nn.utils.clip_grad_value_(first.parameters(), 0.5)
        for optimizer in optimizers:
            optimizer.step()
        scheduler.step()
    assert recording.optimizers == optimizers
    assert recording.schedulers == [scheduler]
    assert recording.modules == [first, second]
    assert [type(each) for each in recording.events] == [Backward, Clip, Update, Update]
    clip = recording.events[1]
    assert isinstance(clip, Clip)
    assert (clip.kind, clip.limit) == ("value", 0.5)
