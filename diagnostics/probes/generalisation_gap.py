"""The standing model's loss on what it was trained on, beside its loss on what was held out."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.subject import Batch

BATCHES, HELDOUT_BATCHES = 4, 8


@dataclass(frozen=True, kw_only=True)
class GeneralisationGap:
    """Losses of the model as it stands, in eval mode, in the loss's own unit.

    Args:
        train / heldout: mean over a few batches of each.
        error: standard error of their difference, from the spread over batches; NaN for single batches.
        fresh: loss of a freshly built model on the first training batch.
    """

    train: float
    heldout: float
    error: float
    fresh: float


def generalisation_gap(bench: Bench) -> GeneralisationGap:
    """The loss of a few training and a few held-out batches."""
    model, heldout = bench.standing_model(), bench.heldout_batches(HELDOUT_BATCHES)
    train = [bench.batch(index) for index in range(BATCHES)]
    ours, theirs = losses(bench, model, train), losses(bench, model, heldout)
    return GeneralisationGap(
        train=statistics.fmean(ours),
        heldout=statistics.fmean(theirs),
        error=math.hypot(error_of(ours), error_of(theirs)),
        fresh=statistics.fmean(losses(bench, bench.model, train[:1])),
    )


@torch.no_grad()
def losses(bench: Bench, model: nn.Module, batches: Sequence[Batch]) -> list[float]:
    """The loss of each batch, in eval mode."""
    model.eval()
    return [float(bench.loss(model, batch)) for batch in batches]


def error_of(values: Sequence[float]) -> float:
    """Standard error of a mean; NaN for a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


GENERALISATION_GAP = Probe(
    name="generalisation-gap",
    question="Does the standing model know what it was trained on far better than what was held out?",
    measure=generalisation_gap,
    needs=("heldout",),
)
