"""The loss is a mean that is divided once more by the size of the batch.

Shows as:      a first loss far below ln V, smaller by exactly the number of samples, of positions or of both.
Why it hurts:  gradients shrink by that factor and change with the batch size: with plain gradient descent next to
               nothing moves, and the printed number compares with nothing.
Measured by:   loss-account: the sum of the weights that the targets have in the loss, with all and with half of the
               samples.
Judged by:     weights that sum to 1 / n with n the number of samples, of positions of a row or of all targets, and
               follow the number of samples where n contains it. Grade: sign. 1 / n for another n is the share of one
               step among several whose gradients are added.
Looks like:    learning-rate-too-low, no-gradient-clipping.
Remedy:        divide a sum by the number of targets, or take the mean; not both.
Blind spots:   batches that cannot be cut in half; losses whose gradient is no cross-entropy's.
Source:        torch.nn.CrossEntropyLoss: reduction "mean" divides already. EXACT: ours.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.average_loss import AVERAGE_LOSS
from diagnostics.interventions.edit_loss import must_classify
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount, Share
from diagnostics.subject import Batch, Subject
from diagnostics.watch import watched_loss

EXACT = 0.01  # relative
LOW = 0.6  # a sum of weights below this is no mean


def judge(account: LossAccount) -> Verdict:
    """Present where the weights sum to one over a size of the batch."""
    share = account.share
    if share is None or share.weight is None:
        return not_tested("what the targets count for cannot be read off this loss")
    numbers = {"sum of weights": share.weight, "samples": float(share.rows), "targets": float(share.counted)}
    said = f"the weights of {share.counted} targets in {share.rows} samples sum to {share.weight:.4g}"
    if share.weight > LOW or share.weight <= 0:
        return absent(f"{said}; a mean gives 1", **numbers)
    by = divided_by(share)
    if by is None:
        return unclear(f"{said}: 1 / {1 / share.weight:.4g}, which is no size of this batch", **numbers)
    fewer = account.fewer
    if by != "positions of a row" and (fewer is None or fewer.weight is None or divided_by(fewer) != by):
        return unclear(f"{said}, as if divided by the {by} once more, but half a batch does not show it", **numbers)
    return present(f"{said}: it is a mean that is divided once more by the number of {by}", **numbers)


def divided_by(share: Share) -> str | None:
    """Which size of the batch the weights sum to one over."""
    if not share.weight or share.weight <= 0:
        return None
    sizes = {"samples": share.rows, "targets": share.counted}
    if share.rows and share.counted % share.rows == 0:
        sizes["positions of a row"] = share.counted // share.rows
    return next((k for k, n in sizes.items() if n > 1 and abs(share.weight * n - 1) < EXACT), None)


def plant(subject: Subject) -> Subject:
    """The subject with its mean loss divided by the number of targets.

    Raises:
        ValueError: it has a step of its own, or no cross-entropy.
    """
    must_classify(subject)
    if subject.step is not None:
        raise ValueError(f"{subject.name} has a step of its own; its loss cannot be divided from outside")

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        value, watch = watched_loss(subject, model, batch)
        return value / max(1, sum(len(call.targets) for call in watch.losses))

    return replace(subject, loss=loss)


FAULT = Fault(
    id="loss-averaged-twice",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=15,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    remedies=(AVERAGE_LOSS,),
    looks_like=("learning-rate-too-low", "no-gradient-clipping"),
    wrong="loss = F.cross_entropy(logits, targets) / len(targets)",
    right="loss = F.cross_entropy(logits, targets)",
)
