"""Curves as runs have them: which of them stand still."""

import math
import random
from collections.abc import Callable

import pytest

from diagnostics.capture.standstill import FEWEST_STEPS, POINTS, Curve, Standstill, error_of_median, standstill

Law = Callable[[int], float]


def curve_of(law: Law, steps: int, *, noise: float = 0.0, seed: int = 0) -> Curve:
    chance, curve = random.Random(seed), Curve()
    for step in range(1, steps + 1):
        curve.add(law(step) + noise * chance.gauss(0, 1))
    return curve


def first_told(law: Law, steps: int, *, noise: float = 0.0, seed: int = 0) -> int | None:
    """The first step, of those that are multiples of 50, at which the curve is said to stand still."""
    chance, curve = random.Random(seed), Curve()
    for step in range(1, steps + 1):
        curve.add(law(step) + noise * chance.gauss(0, 1))
        if step % 50 == 0 and standstill(curve):
            return step
    return None


def plateau(step: int) -> float:
    """Falls to 6.9 within about 100 steps."""
    return 6.9 + 2 * math.exp(-step / 30)


def jump(step: int) -> float:
    """Stands, as if an ability were still missing, and falls by a tenth at step 700."""
    return 4.0 if step < 700 else 3.6


def test_a_loss_that_does_not_move_at_all_stands_still() -> None:
    found = standstill(curve_of(lambda step: 8.99525, 400))
    assert found == Standstill(steps=200, level=8.99525, fall=0.0, error=0.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_a_plateau_is_seen_through_noise(noise: float, seed: int) -> None:
    told = first_told(plateau, 5000, noise=noise, seed=seed)
    assert told is not None
    assert told <= 5000


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("power", [0.05, 0.1, 0.5])
def test_a_power_law_never_stands_still_however_slow(power: float, noise: float, seed: int) -> None:
    assert first_told(lambda step: 9 * step**-power, 6000, noise=noise, seed=seed) is None


def test_a_straight_fall_does_not_stand_still() -> None:
    assert first_told(lambda step: 9 - step / 1000, 6000, noise=0.2) is None


def test_a_step_within_the_last_half_is_progress() -> None:
    assert standstill(curve_of(jump, 1000, noise=0.02)) is None


def test_a_loss_that_rises_does_not_fall() -> None:
    assert standstill(curve_of(lambda step: 3 + step / 1000, 1000)) is not None


def test_noise_that_hides_everything_is_no_standstill() -> None:
    assert standstill(curve_of(lambda step: 4.0, 300, noise=2.0)) is None


def test_nothing_is_said_of_a_short_run() -> None:
    assert standstill(curve_of(lambda step: 4.0, FEWEST_STEPS - 1)) is None


def test_a_loss_that_is_no_number_is_another_alarm() -> None:
    assert standstill(curve_of(lambda step: math.nan, 400)) is None


def test_a_single_wild_loss_does_not_hide_a_plateau() -> None:
    assert standstill(curve_of(lambda step: 400.0 if step == 333 else 4.0, 400)) is not None


def test_a_curve_keeps_its_shape_in_bounded_memory() -> None:
    curve = curve_of(lambda step: float(step), 100_000)
    assert curve.steps == 100_000
    assert len(curve.means) < 2 * POINTS
    assert curve.means[0] == (1 + curve.block) / 2


def test_the_error_of_a_median_is_that_of_normal_values() -> None:
    """1.253 / sqrt(n) for a standard deviation of 1; here over 2000 values, to a twentieth of itself."""
    chance = random.Random(7)
    found = error_of_median([chance.gauss(0, 1) for _ in range(2000)])
    assert found == pytest.approx(1.253 / math.sqrt(2000), rel=0.08)
