"""Divide the loss so that its targets count for one together: the mean, whatever it was before."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.intervention import Intervention
from diagnostics.probes.loss_account import weights_of
from diagnostics.subject import Batch, Subject
from diagnostics.watch import watched_loss


def average_loss(subject: Subject) -> Subject:
    """The subject with its loss divided by the sum of its targets' weights, batch by batch.

    Raises:
        ValueError: the subject has a step of its own, which computes its loss where nothing can be divided.
    """
    if subject.step is not None:
        raise ValueError(f"{subject.name} has a step of its own; its loss cannot be divided from outside")

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        value, watch = watched_loss(subject, model, batch)
        weights = weights_of(value, watch.losses) if value.requires_grad else None
        total = 0.0 if weights is None else float(sum(each.sum() for each in weights))
        return value / total if total > 0 else value

    return replace(subject, loss=loss)


AVERAGE_LOSS = Intervention(
    name="average-loss", does="divide the loss so that it is the mean over its targets", apply=average_loss
)
