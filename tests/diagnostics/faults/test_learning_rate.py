"""Learning rate and warm-up: fire where planted, abstain where something else hides them."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from diagnostics.fault import Verdict
from diagnostics.faults import learning_rate_too_high, learning_rate_too_low, no_warm_up
from diagnostics.interventions.change_rate import change_rate
from diagnostics.interventions.usual_rate import USUAL_UPDATE, first_update, usual_rate
from diagnostics.interventions.warm_up import warm_up
from diagnostics.probe import read
from diagnostics.probes.loss_inputs import LossInputs
from diagnostics.probes.rate_scan import RATE_SCAN, RateCurve, RateScan
from tests import subjects

Judge = Callable[..., Verdict]

HIGH, LOW, COLD = learning_rate_too_high.FAULT, learning_rate_too_low.FAULT, no_warm_up.FAULT
LOGITS = LossInputs(function="cross_entropy", rows=7, classes=5, smallest=-2.0, sum_error=3.0)
SUBJECTS = ("gru", "mlp")  # the quick ones; the transformers are slow


@cache
def scan_of(name: str, factor: float) -> RateScan:
    """The scan of a healthy subject at ``factor`` times its learning rate."""
    reading = read(RATE_SCAN, change_rate(factor).apply(subjects.HEALTHY[name]()), 0)
    assert isinstance(reading.measurement, RateScan)
    return reading.measurement


def judged(scan: RateScan) -> dict[str, str]:
    return {fault.id: fault.judge(scan, LOGITS).status for fault in (HIGH, LOW)}


slow = [pytest.param(name, marks=pytest.mark.slow) for name in ("torch-encoder", "gpt2", "encoder-decoder")]


@pytest.mark.parametrize("name", [*SUBJECTS, *slow])
def test_a_healthy_rate_is_neither(name: str) -> None:
    assert judged(scan_of(name, 1.0)) == {HIGH.id: "absent", LOW.id: "absent"}


@pytest.mark.parametrize("name", [*SUBJECTS, *slow])
def test_a_rate_a_tenth_of_the_best_is_not_too_low(name: str) -> None:
    assert judged(scan_of(name, 0.1)) == {HIGH.id: "absent", LOW.id: "absent"}


@pytest.mark.parametrize("name", [*SUBJECTS, *slow])
def test_a_hundred_times_the_rate_is_too_high(name: str) -> None:
    assert judged(scan_of(name, learning_rate_too_high.PLANTED)) == {HIGH.id: "present", LOW.id: "absent"}


@pytest.mark.parametrize("name", [*SUBJECTS, *slow])
def test_a_ten_thousandth_of_the_rate_is_too_low(name: str) -> None:
    assert judged(scan_of(name, learning_rate_too_low.PLANTED)) == {HIGH.id: "absent", LOW.id: "present"}


def test_the_remedies_end_both(verdict_of: Judge) -> None:
    for fault in (HIGH, LOW):
        assert fault.plant is not None
        assert verdict_of(fault, fault.remedies[0].apply(fault.plant(subjects.mlp()))).status == "absent"


def test_the_usual_rate_gives_the_usual_update() -> None:
    assert first_update(usual_rate(subjects.gru())) == pytest.approx(USUAL_UPDATE, rel=0.05)


def test_no_rate_mends_a_step_that_changes_nothing() -> None:
    idle = change_rate(0.0).apply(subjects.mlp())
    with pytest.raises(ValueError, match="the first step changes no matrix of mlp"):
        usual_rate(idle)


def test_probabilities_in_the_loss_hide_the_rate() -> None:
    probabilities = replace(LOGITS, smallest=0.0, sum_error=1e-7)
    for fault in (HIGH, LOW):
        verdict = fault.judge(scan_of("mlp", 1.0), probabilities)
        assert verdict.status == "unclear"
        assert "softmax-before-cross-entropy" in verdict.because


def curve(factor: float, end: float, update: float) -> RateCurve:
    return RateCurve(
        factor=factor, warm_up=False, losses=(3.0,), end=end, spread=0.0, finite=math.isfinite(end), first_update=update
    )


def scan(ends: tuple[float, float, float], update: float = 1e-2, first_factor: float = 1.0) -> RateScan:
    curves = tuple(curve(f, end, f * update) for f, end in zip((0.1, 1.0, 10.0), ends, strict=True))
    return RateScan(
        start=3.0,
        curves=curves,
        warmed=curves[1],
        adaptive=True,
        first_factor=first_factor,
        moving_factor=first_factor,
    )


def test_a_loss_that_is_not_finite_is_too_high() -> None:
    assert HIGH.judge(scan((2.0, math.nan, math.nan)), LOGITS).status == "present"


def test_a_step_that_changes_nothing_says_nothing_about_the_rate() -> None:
    verdict = HIGH.judge(scan((3.0, 3.0, 3.0), update=0.0), LOGITS)
    assert verdict.status == "unclear"
    assert "changes nothing at all" in verdict.because


def test_a_small_step_of_a_warm_up_is_not_too_low() -> None:
    ends = (3.0, 2.999, 2.99)
    assert LOW.judge(scan(ends, update=5e-5), LOGITS).status == "present"
    assert LOW.judge(scan(ends, update=5e-5, first_factor=0.01), LOGITS).status == "absent"


def test_small_steps_that_lower_the_loss_are_not_too_low() -> None:
    assert LOW.judge(scan((2.9, 2.0, 1.0), update=5e-5), LOGITS).status == "absent"


def test_a_constant_rate_with_adam_is_a_deviation_and_goes_with_a_warm_up() -> None:
    cold = COLD.judge(scan_of("mlp", 1.0))
    assert cold.status == "present"
    assert "harmless unless a trial says otherwise" in cold.because
    assert COLD.remedies[0].apply(subjects.mlp()).schedule is not None
    assert COLD.judge(scan((2.9, 2.0, 1.0), first_factor=0.01)).status == "absent"


def test_plain_gradient_descent_needs_no_warm_up() -> None:
    assert COLD.judge(replace(scan((2.9, 2.0, 1.0)), adaptive=False)).status == "absent"


def test_warm_up_rises_linearly_on_top_of_the_schedule() -> None:
    halved = replace(subjects.mlp(), schedule=lambda step: 0.5)
    schedule = warm_up(5).apply(halved).schedule
    assert schedule is not None
    assert [schedule(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 0.5])


def test_a_warm_up_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"steps \(0\) must be at least 1"):
        warm_up(0)


def test_changing_the_rate_keeps_the_groups_apart() -> None:
    def grouped(model: torch.nn.Module) -> torch.optim.Optimizer:
        first, *rest = model.parameters()
        return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    optimizer = change_rate(10.0).apply(replace(subjects.mlp(), optimizer=grouped)).optimizer(subjects.mlp().model)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5.0, 1.0])
