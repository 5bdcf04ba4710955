"""The subject's step does to a model what the script's loop does to it, at the script's rates."""

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import lr_scheduler as schedulers

from diagnostics.bench import Bench
from diagnostics.capture.captured import captured
from diagnostics.capture.observer import Observer
from diagnostics.capture.optimization import (
    Loop,
    Several,
    base_rates,
    factories_of,
    letters,
    loop_of,
    schedule_seen,
    together,
)
from diagnostics.capture.recording import Backward, Clip, Event, Recording, Unscale, Update, Window, ZeroGrad
from diagnostics.examination import look
from diagnostics.faults import CATALOGUE
from tests.diagnostics.capture.training import Training, network

Loss = Callable[[], Tensor]
OneStep = Callable[[nn.Module, Optimizer, Loss], None]


def plain(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def dropped_after(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    loss().backward()
    optimizer.step()
    optimizer.zero_grad()


def dropped_by_the_model(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    model.zero_grad()
    loss().backward()
    optimizer.step()


def dropped_by_hand(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    for parameter in model.parameters():
        parameter.grad = None
    loss().backward()
    optimizer.step()


def never_dropped(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    loss().backward()
    optimizer.step()


def dropped_before_the_step(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    loss().backward()
    optimizer.zero_grad()
    optimizer.step()


def clipped(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    loss().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.03)
    optimizer.step()


def clipped_before_backward(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    nn.utils.clip_grad_norm_(model.parameters(), 0.03)
    loss().backward()
    optimizer.step()


def clipped_one_by_one(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    loss().backward()
    nn.utils.clip_grad_value_(model.parameters(), clip_value=0.003)
    optimizer.step()


def measured(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    loss().backward()
    nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
    optimizer.step()


def accumulated(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    for _ in range(2):
        (loss() / 2).backward()
    optimizer.step()


def summed(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    optimizer.zero_grad()
    for _ in range(3):
        loss().backward()
    optimizer.step()


def evaluating(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
    model.eval()
    plain(model, optimizer, loss)


def scaled(unscaled: bool, clip: bool) -> OneStep:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def step(model: nn.Module, optimizer: Optimizer, loss: Loss) -> None:
        optimizer.zero_grad()
        scaler.scale(loss()).backward()
        if unscaled:
            scaler.unscale_(optimizer)
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.03)
        scaler.step(optimizer)
        scaler.update()

    return step


LOOPS: dict[str, OneStep] = {
    "plain": plain,
    "dropped after": dropped_after,
    "dropped by the model": dropped_by_the_model,
    "dropped by hand": dropped_by_hand,
    "never dropped": never_dropped,
    "dropped before the step": dropped_before_the_step,
    "clipped": clipped,
    "clipped before backward": clipped_before_backward,
    "clipped one by one": clipped_one_by_one,
    "measured": measured,
    "accumulated": accumulated,
    "summed": summed,
    "evaluating": evaluating,
    "scaled": scaled(False, False),
    "scaled and unscaled": scaled(True, False),
    "scaled, unscaled and clipped": scaled(True, True),
    "clipped while scaled": scaled(False, True),
}


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 11), nn.Dropout(0.3), nn.Tanh(), nn.Linear(11, 3))


def train(step: OneStep, training: Training, optimizer: Optimizer) -> Recording:
    return training.run(lambda: step(training.model, optimizer, training.loss))


@pytest.mark.parametrize("name", LOOPS)
def test_a_step_of_the_subject_is_a_step_of_the_script(name: str) -> None:
    step = LOOPS[name]
    training = Training(network() if name == "accumulated" else dropping())  # two passes draw twice
    found = captured(train(step, training, SGD(training.model.parameters(), 0.1, momentum=0.5)))
    assert found.reproduction.exact
    build = found.subject.build
    assert build is not None
    start, own = build(0), build(0)
    bench = Bench(subject=found.subject, model=build(0), seed=0)
    batches = list(islice(bench.fresh_batches(), 3))
    optimizer = SGD(own.parameters(), 0.1, momentum=0.5)
    torch.manual_seed(7)
    bench.train(iter(batches), 3)
    torch.manual_seed(7)
    own.train()
    for batch in batches:
        step(own, optimizer, lambda batch=batch: batch.tape.play(own, batch))
    for one, other in zip(bench.model.parameters(), own.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters(), own.parameters(), strict=True)) == (
        name != "dropped before the step"
    )


Z, S, U = ZeroGrad(optimizer=0), Unscale(optimizer=0), Update(optimizer=0, settings=())
B = Backward(value=torch.tensor(2.0), forward=None, alive=weakref.ref(torch.tensor(2.0)))
C, V, ENDLESS = Clip(kind="norm", limit=1.0), Clip(kind="value", limit=1.0), Clip(kind="norm", limit=math.inf)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((Z, B, U), "ZBU"),
        ((Z, Z, B, B, B, U, U), "ZBU"),
        ((Z, B, S, C, U), "ZBSCU"),
        ((Z, B, V, U), "ZBVU"),
        ((Z, B, ENDLESS, U), "ZBU"),
        ((Z, B, Z, B, Z, B, U), "ZBU"),
        ((B, Z, U), "BZU"),
        ((C, B, U), "CBU"),
        ((), ""),
    ],
)
def test_a_step_in_letters(events: tuple[Event, ...], expected: str) -> None:
    assert letters(Window(events=events)) == expected


@pytest.mark.parametrize("order", ["ZBU", "ZBCU"])
def test_what_everybody_does_is_usual_and_everything_else_is_not(order: str) -> None:
    loop = Loop(order=order, passes=1, scale=1.0, clips=(), training=True)
    assert loop.is_usual
    changes = {"order": "BU", "passes": 2, "scale": 8.0, "training": False, "dropped": (1,)}
    assert not any(replace(loop, **{name: value}).is_usual for name, value in changes.items())


def test_gradients_are_clipped_to_the_one_norm_that_is_seen_after_backward() -> None:
    loop = Loop(order="ZBCU", passes=1, scale=1.0, clips=(C, ENDLESS), training=True)
    assert loop.clip_norm == 1.0
    assert replace(loop, order="ZCBU").clip_norm is None
    assert replace(loop, clips=(C, Clip(kind="norm", limit=2.0))).clip_norm is None
    assert replace(loop, clips=(V,)).clip_norm is None


def test_the_second_step_says_how_the_loop_goes() -> None:
    first, later = Window(events=(B, U)), Window(events=(Z, B, U))
    assert loop_of([first, later, first], order=None, normalised=True, training=True).order == "ZBU"
    assert loop_of([first], order=None, normalised=True, training=True).order == "BU"
    assert loop_of([first, later], order="ZBCU", normalised=True, training=True).order == "ZBCU"


RATE = 0.1
SCHEDULES: dict[str, Callable[[Optimizer], schedulers.LRScheduler]] = {
    "from zero": lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, step / 3)),
    "down at once": lambda o: schedulers.ExponentialLR(o, 0.7),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, T_max=13),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=RATE, total_steps=29),
    "linear": lambda o: schedulers.LinearLR(o, start_factor=0.1, total_iters=7),
    "in stages": lambda o: schedulers.MultiStepLR(o, milestones=[2, 11], gamma=0.1),
}


def scheduled(
    make: Callable[[Optimizer], schedulers.LRScheduler], steps: int
) -> tuple[Recording, Training, list[float]]:
    """A recording under a schedule and the rates of twice as many steps."""
    training, rates = Training(), []
    optimizer = SGD(training.model.parameters(), RATE, momentum=0.5)

    def step() -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        training.usual(optimizer)()
        scheduler.step()

    recording = Recording(name="train.py")
    with Observer(recording):
        scheduler = make(optimizer)
        for _ in range(steps):
            step()
    for _ in range(steps):
        step()
    return recording, training, rates


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_as_the_script_s_own_does(name: str) -> None:
    recording, training, rates = scheduled(SCHEDULES[name], 7)
    schedule, base = schedule_seen(recording), base_rates(recording, 0)[0]
    assert schedule is not None
    assert [base * schedule(step) for step in range(14)] == pytest.approx(rates, rel=1e-6)
    found = captured(recording)
    assert found.reproduction.exact
    optimizer = found.subject.optimizer(training.model)
    assert optimizer.param_groups[0]["lr"] == base


def test_a_constant_rate_has_no_schedule() -> None:
    training = Training()
    recording = training.run(training.usual(SGD(training.model.parameters(), RATE)))
    assert schedule_seen(recording) is None
    assert base_rates(recording, 0) == [RATE]


def test_a_rate_that_waits_for_a_plateau_is_as_seen_and_then_stays() -> None:
    training = Training()
    optimizer = SGD(training.model.parameters(), RATE)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.1, patience=1)

    def step() -> None:
        training.usual(optimizer)()
        scheduler.step(2.0)

    recording = training.run(step)
    schedule = schedule_seen(recording)
    assert schedule is not None
    assert [schedule(step) for step in range(7)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1])
    assert captured(recording).reproduction.exact


def test_a_rate_that_is_set_by_hand_is_as_seen() -> None:
    training = Training()
    optimizer = SGD(training.model.parameters(), RATE)
    rates = iter([0.01, 0.05, 0.2, 0.1, 0.02])

    def step() -> None:
        optimizer.param_groups[0]["lr"] = next(rates)
        training.usual(optimizer)()

    recording = training.run(step)
    schedule = schedule_seen(recording)
    assert schedule is not None
    assert base_rates(recording, 0) == [0.2]
    assert [schedule(step) for step in range(7)] == pytest.approx([0.05, 0.25, 1, 0.5, 0.1, 0.1, 0.1])
    assert captured(recording).reproduction.exact


def test_groups_keep_their_rates_and_settings() -> None:
    training = Training()
    first, last = training.model[0], training.model[2]
    groups = [{"params": first.parameters(), "lr": 0.01}, {"params": last.parameters(), "weight_decay": 0.3}]
    found = captured(training.run(training.usual(AdamW(groups, lr=0.02, weight_decay=0.0))))
    twin = network()
    optimizer = found.subject.optimizer(twin)
    assert found.reproduction.exact
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.01, 0.0), (0.02, 0.3)]
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(p) for p in part.parameters()] for part in (twin[0], twin[2])
    ]


def test_an_optimizer_class_of_the_script_s_own_is_used_again() -> None:
    class Signs(Optimizer):
        def __init__(self, parameters: Any, lr: float) -> None:
            super().__init__(parameters, {"lr": lr})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.sub_(parameter.grad.sign() * group["lr"])

    training = Training()
    found = captured(training.run(training.usual(Signs(training.model.parameters(), 0.01))))
    assert found.reproduction.exact
    assert type(found.subject.optimizer(network())) is Signs


def test_an_optimizer_over_the_parameters_of_another_model_moves_nothing_in_the_subject_either() -> None:
    training, old = Training(), network()
    optimizer = SGD(old.parameters(), RATE)
    subject = captured(training.run(training.usual(optimizer))).subject
    twin = network()
    assert not {id(p) for p in twin.parameters()} & {
        id(p) for group in subject.optimizer(twin).param_groups for p in group["params"]
    }
    fault = next(each for each in CATALOGUE if each.id == "optimizer-holds-old-parameters")
    found = look(subject, [fault], seed=0, progress=lambda *_: None, costs=("forward",))
    assert found[0].verdict.status == "present"


def halves(training: Training) -> tuple[Optimizer, Optimizer]:
    """An optimizer for each end of the network."""
    return Adam(training.model[0].parameters(), 0.01), SGD(training.model[2].parameters(), RATE, momentum=0.5)


def test_several_optimizers_are_one_with_the_groups_state_and_update_of_each() -> None:
    training = Training()
    recording = training.run(training.usual(*halves(training)))
    found = captured(recording)
    assert found.reproduction.exact
    optimizer = together(factories_of(recording, training.model))(training.model)
    assert isinstance(optimizer, Several)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, RATE]
    before = [p.detach().clone() for p in training.model.parameters()]
    training.usual(optimizer)()
    assert all(not torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))
    assert set(optimizer.state) == set(training.model.parameters())
    assert "exp_avg" in optimizer.state[training.model[0].weight]
    assert "momentum_buffer" in optimizer.state[training.model[2].weight]
    optimizer.zero_grad()
    assert all(p.grad is None for p in training.model.parameters())


def test_an_optimizer_that_never_drops_its_gradients_beside_one_that_does_is_played_so() -> None:
    training = Training()
    first, second = halves(training)

    def step() -> None:
        second.zero_grad()
        training.loss().backward()
        first.step()
        second.step()

    recording = training.run(step)
    found = captured(recording)
    assert found.reproduction.exact
    assert found.subject.step is not None
    loop = loop_of(recording.windows, order=None, normalised=True, training=True)
    assert recording.optimizers == [second, first]
    assert loop.dropped == (0,)


def test_two_optimizers_over_the_same_parameters_are_played() -> None:
    training = Training()
    both = SGD(training.model.parameters(), RATE), SGD(training.model.parameters(), 0.01)
    found = captured(training.run(training.usual(*both)))
    assert found.reproduction.exact
    assert len(found.subject.optimizer(network()).param_groups) == 2


def test_an_optimizer_that_never_steps_is_no_part_of_the_loop() -> None:
    training = Training()
    idle, working = halves(training)

    def step() -> None:
        idle.zero_grad()
        training.usual(working)()

    found = captured(training.run(step))
    assert found.reproduction.exact
    assert type(found.subject.optimizer(network())) is SGD


def test_an_optimizer_that_goes_on_from_a_saved_state_is_told_to_differ() -> None:
    training = Training()
    earlier = Adam(training.model.parameters(), 0.01)
    for _ in range(3):
        training.usual(earlier)()
    resumed = Adam(training.model.parameters(), 0.01)
    resumed.load_state_dict(earlier.state_dict())
    found = captured(training.run(training.usual(resumed)))
    assert not found.reproduction.exact
    assert any("differ by up to" in note for note in found.subject.notes)
