"""What is wrong with a run, told while it is on: facts of a step, and at most one line about them.

All of this is pure. A line is said where a healthy run cannot have such facts, or (a gradient of zero) not for long.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from diagnostics.levels import ReferenceLevel

ZERO_SHARE = 0.25  # of the matrices; a layer that starts at zero keeps one of them from its gradient at first
ZERO_LOOKS = 3  # in a row
FIRST_FAIR_STEP = 10  # before that a layer that starts at zero may still hold back another one's gradient
ON_LEVEL = 2e-4  # nats; ln V and the ceiling of a double softmax differ by as much for V = 8063
LEVEL_STEPS = 50
LEVEL_SHARE = 0.8  # of these steps; the others may have had a lucky hit
NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Gradients at one optimizer step, as the optimizer got them.

    Args:
        step: counted from 1.
        norms: (parameter, length of its gradient) for each that has one.
        matrices: the names among them of parameters with two axes or more.
    """

    step: int
    norms: tuple[tuple[str, float], ...]
    matrices: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class LossInput:
    """What a cross-entropy was given: classes, and whether its rows were probabilities instead of scores."""

    step: int
    classes: int
    are_probabilities: bool


def loss_not_finite(step: int, loss: float, module: str | None) -> str | None:
    """A line for a loss that is no finite number.

    Args:
        module: the first whose output is not finite; None: not known.

    >>> loss_not_finite(12, float("nan"), "blocks.0.norm")
    'step 12: the loss is nan; the first output that is not finite is that of blocks.0.norm'
    """
    if math.isfinite(loss):
        return None
    where = f"; the first output that is not finite is that of {module}" if module else ""
    return f"step {step}: the loss is {loss}{where}"


def gradient_not_finite(found: Gradients) -> str | None:
    """A line for gradients that hold infinite or undefined numbers."""
    broken = [name for name, norm in found.norms if not math.isfinite(norm)]
    if not broken:
        return None
    return f"step {found.step}: gradient not finite in {len(broken)} of {len(found.norms)} parameters ({some(broken)})"


def gradient_zero(latest: Sequence[Gradients]) -> str | None:
    """A line for matrices whose gradient is exactly zero, look after look."""
    looks = [each for each in latest if each.step >= FIRST_FAIR_STEP][-ZERO_LOOKS:]
    if len(looks) < ZERO_LOOKS:
        return None
    zero = set.intersection(*({name for name, norm in each.norms if norm == 0} & each.matrices for each in looks))
    of = len(looks[-1].matrices)
    if not zero or len(zero) < ZERO_SHARE * of:
        return None
    return f"step {looks[-1].step}: gradient exactly zero in {len(zero)} of {of} matrices ({some(sorted(zero))})"


def on_a_level(step: int, losses: Sequence[float], levels: Sequence[ReferenceLevel]) -> str | None:
    """A line for a loss that has stood exactly on a level for LEVEL_STEPS steps.

    Args:
        losses: of the latest steps.
        levels: on which no loss stands that is learning.
    """
    latest = losses[-LEVEL_STEPS:]
    if len(latest) < LEVEL_STEPS:
        return None
    for level in levels:
        if sum(abs(loss - level.nats) <= ON_LEVEL for loss in latest) >= LEVEL_SHARE * LEVEL_STEPS:
            value = statistics.median(latest)
            return (
                f"step {step}: the loss has stood at {value:.5f} for {LEVEL_STEPS} steps, exactly on the level "
                f"{level.name} ({level.nats:.5f}): {level.means}"
            )
    return None


def probabilities_as_scores(found: LossInput) -> str | None:
    """A line for rows that sum to 1 where a cross-entropy takes scores."""
    if not found.are_probabilities:
        return None
    return (
        f"step {found.step}: every row of {found.classes} numbers handed to the cross-entropy sums to 1; it takes "
        "logits and applies the softmax itself"
    )


def not_held(step: int, names: Sequence[str], of: int) -> str | None:
    """A line for trainable parameters that get a gradient and that no optimizer holds."""
    if not names:
        return None
    return f"step {step}: no optimizer holds {len(names)} of {of} parameters that get a gradient ({some(names)})"


def not_moved(step: int, names: Sequence[str], of: int) -> str | None:
    """A line for trainable matrices that are, to the last digit, what they were before the first step."""
    if not names:
        return None
    return f"step {step}: {len(names)} of {of} matrices have not moved since the start ({some(names)})"


def some(names: Sequence[str]) -> str:
    """The first few of some names.

    >>> some(["a", "b", "c", "d"])
    'a, b, c ...'
    """
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
