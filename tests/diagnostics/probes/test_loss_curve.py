"""The loss curve of made-up histories whose law is known."""

import math

import pytest
import torch

from diagnostics.levels import double_softmax_ceiling
from diagnostics.probe import read
from diagnostics.probes.loss_curve import LOSS_CURVE, PowerLaw, measure_curve
from tests import subjects


def law(count: int, floor: float, scale: float, exponent: float, noise: float = 0.0) -> list[float]:
    steps = torch.arange(1, count + 1, dtype=torch.float64)
    errors = torch.randn(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (floor + scale * steps**-exponent + noise * errors).tolist()


def test_a_power_law_is_found_again() -> None:
    fitted = measure_curve(law(2003, 2.0, 5.0, 0.3, noise=0.01)).law
    assert fitted is not None
    assert fitted.floor == pytest.approx(2.0, abs=0.1)
    assert fitted.exponent == pytest.approx(0.3, abs=0.03)
    assert fitted.error < 0.01


def test_a_law_reaches_what_lies_above_its_floor() -> None:
    fall = PowerLaw(floor=2.0, scale=5.0, exponent=0.5, error=0.0)
    assert fall.at(100.0) == pytest.approx(2.5)
    assert fall.reaches(2.5) == pytest.approx(100)
    assert fall.reaches(2.0) == fall.reaches(1.0) == math.inf
    assert PowerLaw(floor=2.0, scale=5.0, exponent=0.05, error=0.0).reaches(2.0 + 1e-20) == math.inf


def test_a_curve_that_rises_has_a_flat_law() -> None:
    fitted = measure_curve([2 + step / 100 for step in range(101)]).law
    assert fitted is not None
    assert fitted.scale == 0.0


def test_a_constant_curve_stands_where_it_is() -> None:
    curve = measure_curve([3.0] * 97)
    assert (curve.standing, curve.spread, curve.lowest, curve.stood_still) == (3.0, 0.0, 3.0, 97)
    assert curve.slope == pytest.approx(0.0, abs=1e-12)


def test_a_curve_stands_still_since_its_drop() -> None:
    curve = measure_curve([9.0] * 60 + [4.0] * 40)
    assert (curve.standing, curve.stood_still, curve.first, curve.lowest) == (4.0, 40, 9.0, 4.0)


def test_slope_is_in_nats_per_step() -> None:
    assert measure_curve([10 - 0.03 * step for step in range(101)]).slope == pytest.approx(-0.03)


def test_losses_that_are_not_finite_are_left_out() -> None:
    curve = measure_curve([math.nan, 5.0, math.inf, 4.0])
    assert (curve.points, curve.finite, curve.first, curve.lowest) == (4, 2, 5.0, 4.0)


def test_a_curve_without_a_finite_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 losses in the history is finite"):
        measure_curve([math.nan, math.inf])


def test_a_saturated_softmax_leaves_one_remainder() -> None:
    hits = torch.randint(7, (201,), generator=torch.Generator().manual_seed(0)).tolist()
    ceiling = double_softmax_ceiling(8063).nats
    float32 = [float(torch.tensor(ceiling - hit / 1000)) for hit in hits]
    assert measure_curve(float32, targets=1000).remainders in (1, 2)
    assert measure_curve(law(201, 8.0, 0.1, 0.1, noise=0.01), targets=1000).remainders > 40


def test_levels_are_those_of_the_batches_and_the_nearest_comes_first() -> None:
    standing = subjects.with_history(subjects.gru(), [math.log(subjects.VOCAB)] * 61)
    curve = read(LOSS_CURVE, standing, 0).measurement
    assert curve.levels[0].name == "uniform"
    assert curve.targets == subjects.BATCH * subjects.CONTEXT


def test_a_subject_without_tokens_has_a_curve_without_levels() -> None:
    curve = read(LOSS_CURVE, subjects.with_history(subjects.mlp(), [1.0, 0.5, 0.4]), 0).measurement
    assert (curve.levels, curve.targets, curve.remainders, curve.law) == ((), None, None, None)


def test_a_subject_without_a_history_is_not_measured() -> None:
    assert read(LOSS_CURVE, subjects.gru(), 0).reason == "this subject has no history"
