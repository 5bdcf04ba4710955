"""How the user's evaluation averages over batches of different size."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from diagnostics.batch_rows import row_parts
from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.untrained_loss import kept_targets
from diagnostics.subject import Batch
from diagnostics.watch import watched_loss

BATCHES = 100  # held-out batches; with more, nothing is compared
UNEVEN = 2  # times as many targets in one batch as in another: below, the two means are as good as equal


@dataclass(frozen=True, kw_only=True)
class EvaluationAverage:
    """The user's validation loss beside two means over the same held-out batches, of the model as it stands.

    Args:
        batches: held out; 0 where there are too many to go through.
        fewest / most: targets that count in a batch.
        reported: what the user's evaluation says; None where the batches are even.
        per_batch: mean of the batches' losses. ``per_target``: the same weighted by their targets. None likewise.
    """

    batches: int
    fewest: int
    most: int
    reported: float | None
    per_batch: float | None
    per_target: float | None


@torch.no_grad()
def evaluation_average(bench: Bench) -> EvaluationAverage:
    """The user's evaluation, and the held-out batches one by one."""
    subject = bench.subject
    assert subject.heldout is not None
    assert subject.evaluate is not None
    batches = list(islice(subject.heldout(bench.seed), BATCHES + 1))
    model = bench.standing_model().eval()
    seen = [loss_and_count(bench, model, batch) for batch in batches] if len(batches) <= BATCHES else []
    counts = [count for _, count in seen]
    if not seen or min(counts) <= 0 or max(counts) < UNEVEN * min(counts):
        fewest, most = (min(counts), max(counts)) if counts else (0, 0)
        return EvaluationAverage(
            batches=len(seen), fewest=fewest, most=most, reported=None, per_batch=None, per_target=None
        )
    return EvaluationAverage(
        batches=len(seen),
        fewest=min(counts),
        most=max(counts),
        reported=float(subject.evaluate(model)),
        per_batch=statistics.fmean(loss for loss, _ in seen),
        per_target=weighted([loss for loss, _ in seen], counts),
    )


def loss_and_count(bench: Bench, model: torch.nn.Module, batch: Batch) -> tuple[float, int]:
    """A batch's loss and how many targets it is a mean of; 0 where nobody knows."""
    computed, watch = watched_loss(bench.subject, model, batch)
    loss = float(computed.detach())
    view = bench.subject.token_view
    if watch.losses:
        return loss, len(watch.losses[-1].targets) if watch.losses[-1].reduction == "mean" else 0
    if view is not None:
        return loss, int((kept_targets(view, batch) >= 0).sum())
    parts = row_parts(batch, bench.subject.batch_axis)
    return loss, len(parts[0]) if parts else 0


def weighted(losses: Sequence[float], counts: Sequence[int]) -> float:
    """Mean of losses, each as often as it has targets."""
    return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)


EVALUATION_AVERAGE = Probe(
    name="evaluation-average",
    question="Does the evaluation give every target the same weight?",
    measure=evaluation_average,
    needs=("evaluate", "heldout"),
    cost="training",
    whole_batches=True,
)
