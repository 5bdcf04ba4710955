"""The loss is summed over the batch while the learning rate is meant for a mean.

Shows as:      a loss that is far above ln V by a factor of the number of targets, and that jumps or turns NaN.
Why it hurts:  the gradient grows with the batch: with plain gradient descent each step is longer by the number of
               targets.
Measured by:   loss-account: the sum of the weights that the targets have in the loss; update-response: whether the
               optimizer's steps grow with the gradient.
Judged by:     weights that sum to the number of targets (with half of the samples as well), an optimizer whose steps
               grow in proportion, no clipping, and a learning rate that comes to more than EFFECTIVE for the mean.
               Grade: sign. Adam and its kin divide the factor out.
Looks like:    learning-rate-too-high, no-gradient-clipping.
Remedy:        reduction="mean", or divide by the number of targets that count.
Blind spots:   losses whose gradient is no cross-entropy's; a clipped sum, whose steps all have the same length.
Source:        torch.nn.CrossEntropyLoss, ``reduction``. EFFECTIVE: ours; one is already at the edge for a mean.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.average_loss import AVERAGE_LOSS
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.probes.update_response import UPDATE_RESPONSE, UpdateResponse
from diagnostics.subject import Subject

EXACT = 0.1  # relative, for weighted classes
MANY = 8  # targets: fewer make no difference
PROPORTIONAL = 0.5
EFFECTIVE = 1.0


def judge(account: LossAccount, response: UpdateResponse) -> Verdict:
    """Present where a sum makes the steps too long."""
    share = account.share
    if share is None or share.weight is None:
        return not_tested("what the targets count for cannot be read off this loss")
    numbers = {"sum of weights": share.weight, "targets": float(share.counted), "rate": response.rate}
    said = f"the weights of {share.counted} targets sum to {share.weight:.4g}"
    if share.counted < MANY or abs(share.weight / share.counted - 1) > EXACT:
        return absent(said, **numbers)
    said += " (a sum, no mean)"
    if response.exponent is None or response.exponent < PROPORTIONAL:
        return absent(f"{said}, which this optimizer divides out again", **numbers)
    effective = response.rate * share.weight
    said += f"; a rate of {response.rate:.3g} then comes to {effective:.3g} for the mean"
    if response.clip_norm is not None:
        return unclear(f"{said}, but gradients are clipped to a norm of {response.clip_norm:.3g}", **numbers)
    return (present if effective > EFFECTIVE else unclear)(said, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with the sum for the mean, in plain gradient descent without clipping."""

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        return func(**given | {"reduction": "sum"})

    return replace(with_edited_loss(subject, change), optimizer=plain_descent, clip_norm=None)


def plain_descent(model: nn.Module) -> Optimizer:
    """Gradient descent at a rate that is usual for a mean."""
    return torch.optim.SGD(model.parameters(), lr=0.1)


FAULT = Fault(
    id="loss-summed",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=15,
    measured_by=(LOSS_ACCOUNT, UPDATE_RESPONSE),
    judge=judge,
    plant=plant,
    remedies=(AVERAGE_LOSS,),
    looks_like=("learning-rate-too-high", "no-gradient-clipping"),
    wrong='loss = F.cross_entropy(logits, targets, reduction="sum")',
    right="loss = F.cross_entropy(logits, targets)",
)
