"""The training loop: loops as people write them, wrong and right."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from diagnostics.fault import ALARMING, Fault, Verdict
from diagnostics.faults import CATALOGUE
from diagnostics.probe import read
from diagnostics.probes.gradient_reach import GRADIENT_REACH
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS
from diagnostics.probes.parameters import PARAMETERS
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING
from diagnostics.subject import Subject
from tests import subjects

Step = Callable[[nn.Module, Optimizer, Any], Tensor]
OURS = (STEP_BOOKKEEPING, OPTIMIZER_SETTINGS, PARAMETERS, GRADIENT_REACH)
FAULTS = [fault for fault in CATALOGUE if set(fault.measured_by) <= set(OURS)]
BY_ID = {fault.id: fault for fault in FAULTS}


def verdicts(subject: Subject) -> dict[str, Verdict]:
    """The verdicts of every fault that rests on the bookkeeping probes."""
    readings = {probe.name: read(probe, subject, 0) for probe in OURS}
    assert [reading.reason for reading in readings.values()] == [None] * len(OURS)
    return {f.id: f.judge(*(readings[p.name].measurement for p in f.measured_by)) for f in FAULTS}


def alarms(subject: Subject) -> dict[str, str]:
    """What is present and alarming, with its sentence."""
    return {
        id_: v.because for id_, v in verdicts(subject).items() if v.status == "present" and BY_ID[id_].grade in ALARMING
    }


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def usual(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    return loss


def kept_gradients(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad(set_to_none=False)
    loss = loss_of(model, batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return loss


def zeroed_at_the_end(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def zeroed_by_the_model(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = loss_of(model, batch)
    model.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(model.parameters(), 0.1)
    optimizer.step()
    return loss.detach()


def gathered(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    parts = list(zip(batch[0].split(10), batch[1].split(10), strict=True))
    total = torch.zeros(())
    for part in parts:
        loss = loss_of(model, part) / len(parts)
        loss.backward()
        total += loss.detach()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return total


def summed(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    for part in zip(batch[0].split(10), batch[1].split(10), strict=True):
        loss = loss_of(model, part)
        loss.backward()
    optimizer.step()
    return loss


def over_rounds(every: int, divisor: int) -> Step:
    rounds = 0

    def step(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        nonlocal rounds
        rounds += 1
        loss = loss_of(model, batch)
        (loss / divisor).backward()
        if rounds % every == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    return step


def with_scaler(*, enabled: bool, unscale: bool = True, step_by: str = "scaler") -> Step:
    scaler = torch.amp.GradScaler("cpu", enabled=enabled)

    def step(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if step_by == "scaler":
            scaler.step(optimizer)
        else:
            optimizer.step()
        scaler.update()
        return loss

    return step


def scaled_without_clipping(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    scaler = torch.amp.GradScaler("cpu")
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    scaler.scale(loss).backward()
    optimizer.step()
    return loss


def by_closure(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return float(loss.detach())

    return torch.tensor(optimizer.step(closure))


def two_optimizers(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    second = SGD(list(model.parameters())[-2:], lr=0.01)
    optimizer.zero_grad()
    second.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    second.step()
    return loss


def two_losses(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    scores = model(batch[0])
    first, second = 0.5 * F.cross_entropy(scores, batch[1]), 0.5 * F.cross_entropy(scores, batch[1])
    first.backward(retain_graph=True)
    second.backward()
    optimizer.step()
    return first + second


def by_hand(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = loss_of(model, batch)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    return loss


def by_autograd(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = loss_of(model, batch)
    for parameter, grad in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
        parameter.grad = grad
    optimizer.step()
    return loss


RIGHT: dict[str, Step] = {
    "usual": usual,
    "zero_grad(set_to_none=False) and clipping": kept_gradients,
    "zero_grad at the end of the loop": zeroed_at_the_end,
    "model.zero_grad, clipping by value, a detached loss": zeroed_by_the_model,
    "accumulation with division": gathered,
    "accumulation over rounds": over_rounds(4, 4),
    "accumulation over many rounds": over_rounds(16, 16),
    "a scaler that is off": with_scaler(enabled=False),
    "a scaler that is on": with_scaler(enabled=True),
    "a closure": by_closure,
    "two optimizers": two_optimizers,
    "two losses": two_losses,
    "an update by hand": by_hand,
    "gradients from torch.autograd.grad": by_autograd,
}
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4),
    "Adam": lambda model: Adam(model.parameters(), lr=1e-3),
    "AdamW": lambda model: AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, betas=(0.9, 0.95)),
    "RMSprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3),
    "Adagrad": lambda model: torch.optim.Adagrad(model.parameters(), lr=1e-2),
    "NAdam": lambda model: torch.optim.NAdam(model.parameters(), lr=2e-3),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loop_raises_no_alarm(name: str, optimizer: str) -> None:
    assert alarms(replace(subjects.mlp(), step=RIGHT[name], optimizer=OPTIMIZERS[optimizer])) == {}


def test_lbfgs_raises_no_alarm() -> None:
    quasi_newton = replace(
        subjects.mlp(), step=by_closure, optimizer=lambda model: torch.optim.LBFGS(model.parameters(), max_iter=3)
    )
    assert alarms(quasi_newton) == {}


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_nothing_is_wrong_with_the_usual_step(name: str) -> None:
    assert alarms(subjects.HEALTHY[name]()) == {}


def never_zeroed(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = loss_of(model, batch)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def named_but_not_called(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad  # noqa: B018
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step()
    return loss


def zeroed_too_late(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    loss = loss_of(model, batch)
    loss.backward()
    model.zero_grad(set_to_none=False)
    optimizer.step()
    return loss


def no_step(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    optimizer.step  # noqa: B018
    return loss


def no_backward(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    optimizer.step()
    return loss


def always_skipped(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    scaler.scale(loss * 1e6).backward()
    scaler.step(optimizer)
    return loss


def uphill_by_hand(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    model.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter += 0.1 * parameter.grad
    return loss


WRONG: dict[str, tuple[str, Step]] = {
    "never zeroed": ("gradients-not-zeroed", never_zeroed),
    "zero_grad without parentheses": ("gradients-not-zeroed", named_but_not_called),
    "zeroed too late": ("gradients-zeroed-before-the-step", zeroed_too_late),
    "step without parentheses": ("step-never-called", no_step),
    "no backward": ("step-never-called", no_backward),
    "a scaler that always skips": ("step-never-called", always_skipped),
    "an update by hand, uphill": ("gradient-of-the-wrong-sign", uphill_by_hand),
    "accumulation without division": ("accumulation-not-normalised", summed),
    "accumulation over rounds without division": ("accumulation-not-normalised", over_rounds(4, 1)),
    "optimizer.step in place of scaler.step": ("scaler-misused", scaled_without_clipping),
    "clipping before unscale_": ("scaler-misused", with_scaler(enabled=True, unscale=False)),
}


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loop_is_found_and_nothing_else(name: str, optimizer: str) -> None:
    expected, step = WRONG[name]
    assert set(alarms(replace(subjects.mlp(), step=step, optimizer=OPTIMIZERS[optimizer]))) == {expected}


@pytest.mark.parametrize("name", WRONG)
def test_the_usual_step_repairs_a_wrong_loop(name: str) -> None:
    fault_id, step = WRONG[name]
    fault: Fault = BY_ID[fault_id]
    assert alarms(fault.remedies[0].apply(replace(subjects.mlp(), step=step))) == {}


def negated(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return -loss_of(model, batch)


def without_its_minus(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.log_softmax(model(batch[0]), dim=-1).gather(1, batch[1][:, None]).mean()


def with_its_minus(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return -without_its_minus(model, batch)


@pytest.mark.parametrize("loss", [negated, without_its_minus])
def test_a_negated_loss_has_the_wrong_sign(loss: Callable[..., Tensor]) -> None:
    wrong = replace(subjects.mlp(), loss=loss)
    assert set(alarms(wrong)) == {"gradient-of-the-wrong-sign"}
    assert alarms(BY_ID["gradient-of-the-wrong-sign"].remedies[0].apply(wrong)) == {}


def test_a_negative_log_likelihood_written_by_hand_is_fine() -> None:
    assert alarms(replace(subjects.mlp(), loss=with_its_minus)) == {}


def test_maximize_goes_uphill_and_a_negated_loss_undoes_it() -> None:
    def uphill(model: nn.Module) -> Optimizer:
        return Adam(model.parameters(), lr=1e-3, maximize=True)

    wrong = replace(subjects.mlp(), optimizer=uphill)
    assert set(alarms(wrong)) == {"gradient-of-the-wrong-sign"}
    assert alarms(BY_ID["gradient-of-the-wrong-sign"].remedies[0].apply(wrong)) == {}
    assert alarms(replace(wrong, loss=negated)) == {}


def test_an_optimizer_of_another_model_is_found_and_bound_anew() -> None:
    old = subjects.mlp().model

    def stale(model: nn.Module) -> Optimizer:
        return AdamW(old.parameters(), lr=1e-2)

    wrong = replace(subjects.mlp(), optimizer=stale)
    assert set(alarms(wrong)) == {"optimizer-holds-old-parameters", "parameters-not-in-the-optimizer"}
    assert alarms(BY_ID["optimizer-holds-old-parameters"].remedies[0].apply(wrong)) == {}


def test_an_optimizer_of_two_models_is_fine() -> None:
    other = nn.Linear(3, 2)

    def both(model: nn.Module) -> Optimizer:
        return AdamW([*model.parameters(), *other.parameters()], lr=1e-2)

    assert alarms(replace(subjects.mlp(), optimizer=both)) == {}


@pytest.mark.parametrize("schedule", [lambda step: 0.0, lambda step: step // 4000], ids=["zero", "a whole division"])
def test_a_schedule_that_never_rises_is_a_rate_of_zero(schedule: Callable[[int], float]) -> None:
    wrong = replace(subjects.mlp(), schedule=schedule)
    assert set(alarms(wrong)) == {"learning-rate-zero"}
    assert alarms(BY_ID["learning-rate-zero"].remedies[0].apply(wrong)) == {}


def test_a_rate_of_zero_is_found_and_mended() -> None:
    wrong = replace(subjects.mlp(), optimizer=lambda model: SGD(model.parameters(), lr=0.0))
    assert set(alarms(wrong)) == {"learning-rate-zero"}
    assert alarms(BY_ID["learning-rate-zero"].remedies[0].apply(wrong)) == {}


def test_a_warm_up_from_zero_is_fine() -> None:
    assert alarms(replace(subjects.mlp(), schedule=lambda step: min(1.0, step / 400))) == {}


def regression() -> Subject:
    """A hand-written regression with plain gradient descent: no classes, no criterion of torch."""

    def batches(seed: int) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(7):
            yield torch.randn(23, 5, generator=generator)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 11), nn.Tanh(), nn.Linear(11, 1))

    return Subject(
        name="regression",
        model=build(0),
        build=build,
        loss=lambda model, x: ((model(x)[:, 0] - x.sum(1)) ** 2).mean(),
        batches=batches,
        optimizer=lambda model: SGD(model.parameters(), lr=0.05),
    )


def test_a_regression_by_hand_is_fine_and_its_wrong_sign_is_found() -> None:
    assert alarms(regression()) == {}
    wrong = BY_ID["gradient-of-the-wrong-sign"].plant
    assert wrong is not None
    assert set(alarms(wrong(regression()))) == {"gradient-of-the-wrong-sign"}
