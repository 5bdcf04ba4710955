"""Facts made by hand, and the lines that they give; what happens in healthy runs too gives none."""

import math

import pytest

from diagnostics.capture.alarms import (
    LEVEL_STEPS,
    Gradients,
    LossInput,
    gradient_not_finite,
    gradient_zero,
    loss_not_finite,
    not_held,
    not_moved,
    on_a_level,
    probabilities_as_scores,
    some,
)
from diagnostics.levels import double_softmax_ceiling, uniform

LEVELS = (uniform(8063), double_softmax_ceiling(8063))


def gradients(step: int, **norms: float) -> Gradients:
    """Names with a W are matrices."""
    return Gradients(step=step, norms=tuple(norms.items()), matrices=frozenset(name for name in norms if "W" in name))


def looks(*steps: int, **norms: float) -> list[Gradients]:
    return [gradients(step, **norms) for step in steps]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_finite_number_is_told(loss: float) -> None:
    assert loss_not_finite(7, loss, None) == f"step 7: the loss is {loss}"


def test_a_finite_loss_is_not_told() -> None:
    assert loss_not_finite(7, 8.2, "head") is None


def test_a_gradient_with_infinite_numbers_is_told_with_its_parameters() -> None:
    found = gradient_not_finite(gradients(11, W1=math.nan, b1=1.0, W2=math.inf))
    assert found == "step 11: gradient not finite in 2 of 3 parameters (W1, W2)"


def test_a_large_gradient_is_finite() -> None:
    assert gradient_not_finite(gradients(11, W1=1e30)) is None


def test_matrices_without_any_gradient_are_told_after_three_looks() -> None:
    dead = {"W1": 0.0, "b1": 0.0, "W2": 0.0, "W3": 0.5}
    assert gradient_zero(looks(20, 30, **dead)) is None
    assert gradient_zero(looks(20, 30, 40, **dead)) == ("step 40: gradient exactly zero in 2 of 3 matrices (W1, W2)")


def test_a_matrix_that_waits_for_another_one_at_first_is_healthy() -> None:
    """The first factor of a low-rank update whose second factor starts at zero has no gradient at step 1."""
    assert gradient_zero([*looks(1, 2, 3, W1=0.0, W2=1.0), *looks(10, 20, W1=0.1, W2=1.0)]) is None


def test_a_gradient_that_is_zero_now_and_then_is_healthy() -> None:
    assert gradient_zero([*looks(10, 20, W1=0.0), *looks(30, W1=0.1), *looks(40, 50, W1=0.0)]) is None


def test_one_of_many_matrices_without_a_gradient_is_no_proof() -> None:
    """Such as an expert that no token was sent to."""
    assert gradient_zero(looks(10, 20, 30, W1=0.0, W2=1.0, W3=1.0, W4=1.0, W5=1.0)) is None


def test_a_loss_on_the_ceiling_is_told_from_one_on_the_uniform_level() -> None:
    ceiling, level = LEVELS[1].nats, LEVELS[0].nats
    assert "exactly on the level double-softmax ceiling (8.99525)" in str(on_a_level(90, [ceiling] * 50, LEVELS[1:]))
    assert "exactly on the level uniform (8.99504)" in str(on_a_level(90, [level] * 50, LEVELS))


def test_lucky_hits_below_the_ceiling_do_not_hide_it() -> None:
    losses = [LEVELS[1].nats - (0.001 if step % 6 == 0 else 0) for step in range(LEVEL_STEPS)]
    assert on_a_level(90, losses, LEVELS) is not None


def test_a_healthy_loss_passes_a_level_and_is_not_told() -> None:
    """Untrained, with small scores, a loss starts near ln V, scatters by 0.002 from batch to batch, and falls."""
    losses = [LEVELS[0].nats + 0.002 * math.sin(7 * step) - step / 500 for step in range(LEVEL_STEPS)]
    assert on_a_level(50, losses, LEVELS) is None


def test_a_level_takes_its_steps() -> None:
    assert on_a_level(49, [LEVELS[0].nats] * (LEVEL_STEPS - 1), LEVELS) is None


def test_rows_that_sum_to_one_are_told() -> None:
    line = probabilities_as_scores(LossInput(step=2, classes=53, are_probabilities=True))
    assert line is not None
    assert line.startswith("step 2: every row of 53 numbers handed to the cross-entropy sums to 1")


def test_scores_are_not_told() -> None:
    assert probabilities_as_scores(LossInput(step=2, classes=53, are_probabilities=False)) is None


def test_parameters_are_told_by_number_and_name() -> None:
    names = ["a.weight", "b.weight", "c.weight", "d.weight"]
    assert not_held(10, names, 7) == (
        "step 10: no optimizer holds 4 of 7 parameters that get a gradient (a.weight, b.weight, c.weight ...)"
    )
    assert not_moved(50, names[:1], 7) == "step 50: 1 of 7 matrices have not moved since the start (a.weight)"


def test_nothing_is_told_where_no_parameter_is_concerned() -> None:
    assert not_held(10, [], 7) is None
    assert not_moved(50, [], 7) is None


def test_few_names_are_told_whole() -> None:
    assert some(["a", "b"]) == "a, b"
