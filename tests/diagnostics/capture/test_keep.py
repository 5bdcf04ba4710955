"""An observer of a run of any length: what it keeps does not grow, and it is out of the way in between."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from diagnostics.capture.captured import captured
from diagnostics.capture.observer import FINE_STEPS, Keep, Observer
from diagnostics.capture.recording import Recording

KEEP = Keep(first=3, every=5, latest=2)


class Loop:
    """A training loop of a few numbers, with one optimizer or with one per layer."""

    def __init__(self, *, optimizers: int = 1) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 5))
        parts = [self.model] if optimizers == 1 else [self.model[0], self.model[2]]
        self.optimizers = [torch.optim.AdamW(part.parameters(), lr=1e-2) for part in parts]
        self.losses: list[float] = []

    def step(self) -> None:
        x = torch.randn(13, 7)
        loss = nn.functional.cross_entropy(self.model(x), x[:, :5].argmax(-1))
        for each in self.optimizers:
            each.zero_grad()
        loss.backward()
        for each in self.optimizers:
            each.step()
        self.losses.append(loss.item())

    def run(self, steps: int) -> list[float]:
        for _ in range(steps):
            self.step()
        return self.losses


def modes() -> int:
    return torch._C._len_torch_function_stack()


def test_the_first_and_the_latest_recorded_steps_stay() -> None:
    loop, recording = Loop(), Recording(name="loop")
    with Observer(recording, keep=KEEP):
        losses = loop.run(99)
    kept = [float(window.backwards[0].value) for window in recording.windows]
    assert kept == [losses[step] for step in (0, 1, 2, 90, 95)]


def test_steps_by_two_optimizers_are_kept_whole() -> None:
    loop, recording = Loop(optimizers=2), Recording(name="loop")
    with Observer(recording, keep=KEEP):
        loop.run(99)
    assert [[update.optimizer for update in window.updates] for window in recording.windows] == [[0, 1]] * 5


def test_every_loss_is_told() -> None:
    loop, told = Loop(), list[float]()
    with Observer(Recording(name="loop"), keep=KEEP, on_loss=lambda loss: told.append(float(loss))):
        assert loop.run(23) == told


def test_the_losses_are_those_of_the_bare_loop() -> None:
    with Observer(Recording(name="loop"), keep=KEEP):
        watched = Loop().run(23)
    assert watched == Loop().run(23)


def test_what_is_kept_does_not_grow() -> None:
    loop, recording, sizes = Loop(), Recording(name="loop"), set[tuple[int, int]]()
    with Observer(recording, keep=KEEP) as observer:
        for _ in range(400):
            loop.step()
            if observer.steps > 100:
                sizes.add((len(recording.events), observer.bytes))
    assert max(events for events, _ in sizes) <= 3 * (KEEP.first + KEEP.latest + 1)
    assert max(used for _, used in sizes) <= (KEEP.first + KEEP.latest + 1) * 13 * 8 * 8


def test_torch_calls_nobody_while_the_observer_rests() -> None:
    loop, depths = Loop(), list[int]()
    with Observer(Recording(name="loop"), keep=KEEP):
        for _ in range(13):
            depths.append(modes())
            loop.step()
    assert depths == [1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0]
    assert modes() == 0


def test_a_mode_that_the_script_enters_meanwhile_can_be_left() -> None:
    class Own(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    loop = Loop()
    with Observer(Recording(name="loop"), keep=KEEP):
        loop.run(4)
        with Own():
            loop.run(7)
        assert modes() == 0
        loop.run(5)
        assert len(loop.losses) == 16
    assert modes() == 0


def test_a_scaled_loss_is_told_as_it_was_before() -> None:
    scaler, told = torch.amp.GradScaler("cpu", init_scale=2.0**11), list[float]()
    x = torch.tensor(3.0, requires_grad=True)
    with Observer(Recording(name="loop"), keep=KEEP, on_loss=lambda loss: told.append(float(loss))):
        scaler.scale(x * 2).backward()
    assert told == [6.0]


def test_what_was_kept_of_a_long_run_plays_its_first_steps_again() -> None:
    loop, recording = Loop(), Recording(name="loop")
    with Observer(recording, keep=Keep(first=FINE_STEPS, every=5, latest=2)):
        loop.run(60)
    found = captured(recording)
    assert found.reproduction.exact
    assert len(list(found.subject.batches(0))) == FINE_STEPS + 2


@pytest.mark.parametrize("keep", [None, KEEP])
def test_modules_that_are_called_are_known(keep: Keep | None) -> None:
    loop = Loop()
    unused = nn.Linear(2, 2)
    with Observer(Recording(name="loop"), keep=keep) as observer:
        loop.run(2)
    assert {id(module) for module in loop.model.modules()} <= observer.called
    assert id(unused) not in observer.called
