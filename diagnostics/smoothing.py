"""How much of a label's weight a loss gives to other classes, and what that leaves of a loss on data known by heart."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probes.untrained_loss import kept_targets
from diagnostics.subject import Batch, Subject
from diagnostics.watch import watched_loss

MOST = 0.95  # of the weight: what gives away more is no loss of that label
SAME = 1e-3  # relative: the amount on one batch and on the next


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Labels smoothed by ``amount``, spread over all ``classes``; an amount of 0 smooths nothing."""

    amount: float
    classes: int

    @property
    def floor(self) -> float:
        """The lowest such loss, nats: the entropy of a smoothed label.

        >>> round(Smoothing(amount=0.1, classes=2).floor, 4)
        0.1985
        """
        shares = [self._own, *[self.amount / self.classes] * (self.classes - 1)]
        return -sum(share * math.log(share) for share in shares if share > 0)

    @property
    def left(self) -> float:
        """The plain cross-entropy, nats, of a model that gives each label exactly its smoothed weight.

        >>> round(Smoothing(amount=0.1, classes=2).left, 4)
        0.0513
        """
        return -math.log(self._own)

    @property
    def _own(self) -> float:
        return 1 - self.amount + self.amount / self.classes


NONE = Smoothing(amount=0.0, classes=1)


@torch.no_grad()
def smoothing(bench: Bench) -> Smoothing:
    """What the subject's loss smooths, by the calls that it makes; NONE where that cannot be told.

    Written out by hand it is told from the loss itself, which then lies between the plain cross-entropy and that of
    evenly spread labels, by the same share on two batches.
    """
    was_training = bench.model.training
    model = bench.model.eval()
    found = [amount_on(bench.subject, model, bench.batch(index)) for index in range(2)]
    model.train(was_training)
    one, other = found
    if one is None or other is None or not MOST >= one.amount > 0:
        return NONE
    return one if math.isclose(one.amount, other.amount, rel_tol=SAME) else NONE


def amount_on(subject: Subject, model: nn.Module, batch: Batch) -> Smoothing | None:
    """The smoothing that one batch shows; None where its loss is no single cross-entropy."""
    loss, watch = watched_loss(subject, model, batch)
    seen = watch.losses[0] if len(watch.losses) == 1 else None
    if seen is not None and not seen.by_hand:
        return Smoothing(amount=seen.label_smoothing, classes=seen.scores.shape[1])
    if subject.token_view is not None:  # which targets count is not seen in what is written out
        aims = kept_targets(subject.token_view, batch)
        scores = subject.token_view.logits(model, batch)[(aims >= 0).to(loss.device)]
        return between(loss, scores, aims[aims >= 0].to(loss.device))
    return None if seen is None else between(loss, seen.scores, seen.targets)


def between(loss: Float[Tensor, ""], scores: Float[Tensor, "rows classes"], targets: Int[Tensor, " rows"]) -> Smoothing:
    """Where a loss lies between the plain cross-entropy and that of labels that are spread evenly."""
    plain, even = (F.cross_entropy(scores, targets, label_smoothing=amount) for amount in (0.0, 1.0))
    return Smoothing(amount=float((loss - plain) / (even - plain)), classes=scores.shape[1])
