"""The first loss of a fresh model, beside the losses that theory names."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.levels import ReferenceLevel, levels_of_targets, nearest
from diagnostics.probe import Probe
from diagnostics.subject import Batch, TokenView
from diagnostics.watch import LossCall, watched_loss

BATCHES = 8  # whose targets the levels are counted on


@dataclass(frozen=True, kw_only=True)
class UntrainedLoss:
    """The loss before any training.

    Args:
        loss: on the first batch, as the subject computes it.
        per_target: the same per target that counts: ``loss`` itself unless the loss function adds them up.
        reduction: "mean", "sum" or "none" of the classification loss; None where none was called.
        classes: width of the rows that the loss was given; the vocabulary of a language model. 0: unknown.
        levels: uniform, unigram, bigram, double-softmax floor and ceiling, from high to low, on the targets of the
            first batches. Unigram and bigram are left out where the targets are not a stream of tokens.
        nearest: name of the level closest to ``per_target``; None without levels.
    """

    loss: float
    per_target: float
    reduction: str | None
    classes: int
    levels: tuple[ReferenceLevel, ...]
    nearest: str | None


def untrained_loss(bench: Bench) -> UntrainedLoss:
    """The fresh model's loss on the first batch, and the reference levels of the first batches."""
    with torch.no_grad():
        computed, watch = watched_loss(bench.subject, bench.model, bench.batch(0))
    loss = float(computed.detach())  # a loss may be made to require a gradient even here
    call = watch.losses[-1] if watch.losses else None
    per_target = loss / max(1, len(call.targets)) if call and call.reduction == "sum" else loss
    levels = levels_of(bench, call)
    return UntrainedLoss(
        loss=loss,
        per_target=per_target,
        reduction=None if call is None else call.reduction,
        classes=0 if call is None else call.scores.shape[1],
        levels=levels,
        nearest=nearest(levels, per_target).name if levels else None,
    )


def levels_of(bench: Bench, call: LossCall | None) -> tuple[ReferenceLevel, ...]:
    """Levels on the batches' targets; without a token view those that need nothing but the number of classes."""
    if bench.subject.token_view is not None:
        return batch_levels(bench)
    if call is None or not len(call.targets):
        return ()
    levels = levels_of_targets(call.targets.cpu(), call.scores.shape[1])
    return tuple(level for level in levels if level.name != "bigram")


def batch_levels(bench: Bench, batches: int = BATCHES) -> tuple[ReferenceLevel, ...]:
    """The reference levels of the first batches' targets; needs a token view."""
    windows = [kept_targets(bench.tokens, bench.batch(index)) for index in range(batches)]
    stream = torch.cat([F.pad(rows, (0, 1), value=-1).flatten() for rows in windows])
    return levels_of_targets(stream, bench.tokens.vocab_size)


def kept_targets(view: TokenView, batch: Batch) -> Int[Tensor, "batch time"]:
    """The targets of a batch, -1 where the loss leaves one out."""
    targets = view.targets(batch).cpu().long()
    return targets if view.ignored is None else targets.masked_fill(view.ignored(batch).cpu(), -1)


UNTRAINED_LOSS = Probe(
    name="untrained-loss",
    question="Where does the loss of a fresh model stand among the losses that theory names?",
    measure=untrained_loss,
)
