"""The loss is cut off from the model that it is computed with.

Shows as:      "element 0 of tensors does not require grad" at the backward pass; or, where the loss was wrapped in a
               new tensor with ``requires_grad=True``, a loss that never moves.
Why it hurts:  nothing leads from the loss back to the weights: no parameter ever gets a gradient.
Measured by:   loss-account: whether the loss, and the scores that it is computed from, lead back to anything.
Judged by:     a loss that leads back to nothing that can be learned, although parameters ask for gradients and the
               forward pass ran with gradients on. Grade: proof.
Looks like:    forward-without-gradient, saturated-output, parameters-not-in-the-optimizer.
Remedy:        hand ``backward`` the very tensor that the loss function returns; ``.item()``, ``.detach()``,
               ``.data``, numpy and ``argmax`` are for printing.
Blind spots:   where scores, too, are cut off the place cannot be told; a loss with a second, connected term.
Source:        torch.Tensor.detach; torch.tensor "always copies data", without its history.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.only_cross_entropy import ONLY_CROSS_ENTROPY
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.subject import Batch, Subject


def judge(account: LossAccount) -> Verdict:
    """Present where the loss has no graph although the forward pass has one."""
    if not account.trainable:
        return not_tested("no parameter asks for a gradient")
    if account.connected:
        return absent("the loss leads back to what can be learned")
    if account.blind and not account.scores_connected:
        return absent(f"{account.blind} products are made without gradients: the forward pass itself keeps no graph")
    if account.scores_connected:
        where = (
            f"the scores given to {account.function} lead back to the weights, the loss does not: it was detached, or "
        )
        where += "made into a number or a new tensor"
    else:
        where = "neither the loss nor the scores that it is computed from lead back to the weights: the model's output "
        where += "was detached, turned into classes (argmax) or into numpy on the way"
    return present(where, loss=account.loss)


def plant(subject: Subject) -> Subject:
    """The subject with its loss wrapped in a new tensor, as one does to silence the error at the backward pass."""

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        value = subject.loss(model, batch)
        return value.detach().requires_grad_(value.requires_grad)

    return replace(subject, loss=loss)


FAULT = Fault(
    id="loss-without-gradient",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=11,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    remedies=(ONLY_CROSS_ENTROPY,),
    looks_like=("forward-without-gradient", "saturated-output", "parameters-not-in-the-optimizer"),
    wrong="loss = torch.tensor(F.cross_entropy(logits, targets).item(), requires_grad=True)\nloss.backward()",
    right="loss = F.cross_entropy(logits, targets)\nloss.backward()",
)
