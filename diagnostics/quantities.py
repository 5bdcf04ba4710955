"""What is compared in a trial: which loss of a training run, and the loss at a step of its curve."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from diagnostics.subject import Subject
from diagnostics.trial import FITTED_BELOW, Outcome, Regime

SMOOTHED = 5  # steps whose median stands for the loss at a step
LEARNED_SHARE = 0.1  # of the loss above the reference is left: the step at which learning speeds are compared
STILL_FALLS = 0.1  # of the loss of one batch goes away in the second half of its steps: it is still being learned


@dataclass(frozen=True, kw_only=True)
class LossOf:
    """Which loss of an outcome is compared, and in which regime it was trained."""

    name: str
    regime: Regime
    take: Callable[[Outcome], float]


def honest_in_best_unit(outcome: Outcome) -> float:
    """Bits per byte where there is text (they compare vocabularies), otherwise nats per token; NaN if neither."""
    if outcome.bits_per_byte is not None:
        return outcome.bits_per_byte
    return math.nan if outcome.honest is None else outcome.honest


FIT = LossOf(name="loss of one batch (nats per token)", regime="one batch", take=lambda outcome: outcome.final)


LOWEST = LossOf(
    name="lowest possible loss of one batch (nats per token)",
    regime="one batch",
    take=lambda outcome: outcome.lowest_possible,
)


HIDDEN = LossOf(
    name="what the training loss hides (nats per token)",
    regime="fresh batches",
    take=lambda outcome: math.nan if outcome.hidden is None else outcome.hidden,
)


IMPOSSIBLE = LossOf(
    name="nats below what is possible on random tokens",
    regime="random tokens",
    take=lambda outcome: math.nan if outcome.hidden is None else outcome.hidden,
)


EVALUATED = LossOf(
    name="validation loss as the setup computes it",
    regime="fresh batches",
    take=lambda outcome: math.nan if outcome.evaluated is None else outcome.evaluated,
)

HONEST = LossOf(name="honest held-out loss (bits per byte)", regime="fresh batches", take=honest_in_best_unit)


HONEST_NATS = LossOf(
    name="honest held-out loss (nats per token)",
    regime="fresh batches",
    take=lambda outcome: math.nan if outcome.honest is None else outcome.honest,
)

HONEST_SEEN = replace(HONEST_NATS, name="honest loss of training batches (nats per token)")
"""The same where a subject keeps no batches apart: what its training batches say when nothing in them is given away."""

LOSSES = (FIT, HIDDEN, IMPOSSIBLE, EVALUATED, HONEST, HONEST_NATS, HONEST_SEEN)


def honest_name(subject: Subject) -> str:
    """What the honest loss of this subject is called: with the unit, and whether its text was kept apart."""
    if subject.text_view is not None:
        return HONEST.name
    return HONEST_SEEN.name if subject.heldout is None else HONEST_NATS.name


def mean_or_none(values: Sequence[float]) -> float | None:
    """The mean; None where there is nothing, or something that is not finite."""
    return statistics.fmean(values) if values and all(map(math.isfinite, values)) else None


def mean_or_nan(values: Sequence[float]) -> float:
    """The mean; NaN where there is nothing."""
    return statistics.fmean(values) if values else math.nan


def first_loss(outcomes: Sequence[Outcome]) -> float:
    """Mean loss at the first step; NaN where no curve was kept."""
    firsts = [outcome.curve[0] for outcome in outcomes if outcome.curve]
    return statistics.fmean(firsts) if firsts else math.nan


def loss_at(curve: Sequence[float], step: int) -> float:
    """The median of the last SMOOTHED losses at a step (from 0); a run that stopped early stays where it was."""
    upto = curve[: step + 1]
    return statistics.median(upto[-SMOOTHED:]) if upto else math.nan


def learned_at(curves: Sequence[Sequence[float]], lowest: float, start: float) -> int | None:
    """The first step at which the curves' mean has come within LEARNED_SHARE of the way from start to lowest."""
    line = lowest + LEARNED_SHARE * (start - lowest)
    for step in range(SMOOTHED, max(map(len, curves))):
        if statistics.fmean(loss_at(curve, step) for curve in curves) <= line:
            return step
    return None


def still_falls(outcome: Outcome) -> bool:
    """Whether one batch is not learned yet, and was still being learned in the second half of the steps."""
    halfway, end = loss_at(outcome.curve, len(outcome.curve) // 2), loss_at(outcome.curve, len(outcome.curve))
    return end > FITTED_BELOW and end < (1 - STILL_FALLS) * halfway
