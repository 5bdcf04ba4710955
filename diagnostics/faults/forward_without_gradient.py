"""The forward pass runs with gradients switched off.

Shows as:      "element 0 of tensors does not require grad" at the backward pass; or, where that was silenced by
               ``requires_grad_()``, a loss that never moves.
Why it hurts:  nothing leads from the loss back to the weights.
Measured by:   loss-account: products with trainable weights made while gradients were off, and whether the loss leads
               back to anything.
Judged by:     a loss that leads back to nothing that can be learned, although parameters ask for gradients and
               gradients were on when it was called, and products with such parameters made while they were off.
               Grade: proof.
Looks like:    loss-without-gradient, parameters-not-in-the-optimizer.
Remedy:        keep ``torch.no_grad`` and ``torch.inference_mode`` to validation and generation.
Blind spots:   a part of the model that is run so on purpose and another that is not: the loss then leads back to
               that.
Source:        torch.no_grad: "will not track"; the loss then has ``requires_grad=False``.
"""

import inspect

import torch
from torch import nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import rebuilt
from diagnostics.interventions.keep_gradients import KEEP_GRADIENTS
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.subject import Subject


def judge(account: LossAccount) -> Verdict:
    """Present where the loss has no graph because the forward pass made none."""
    if not account.trainable:
        return not_tested("no parameter asks for a gradient")
    if account.connected:
        return absent("the loss leads back to what can be learned")
    if not account.blind or account.scores_connected:
        return absent("the loss leads back to nothing, but the forward pass keeps its graph")
    return present(
        f"{account.blind} products with weights that ask for a gradient are made while gradients are switched off, and "
        "the loss leads back to nothing",
        blind=float(account.blind),
    )


def plant(subject: Subject) -> Subject:
    """The subject whose model runs without gradients."""

    def change(model: nn.Module) -> None:
        usual = type(model)

        def blind(self: nn.Module, *args: object, **kwargs: object) -> object:
            with torch.no_grad():
                return usual.forward(self, *args, **kwargs)

        blind.__signature__ = inspect.signature(usual.forward)  # type: ignore[attr-defined]
        model.__class__ = type(usual.__name__, (usual,), {"forward": blind})  # a copy of the model runs itself

    return rebuilt(subject, change)


FAULT = Fault(
    id="forward-without-gradient",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=11,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    remedies=(KEEP_GRADIENTS,),
    looks_like=(
        "loss-without-gradient",
        "parameters-not-in-the-optimizer",
    ),
    wrong="with torch.no_grad():\n    logits = model(tokens)\nloss = F.cross_entropy(logits, targets)",
    right="logits = model(tokens)\nloss = F.cross_entropy(logits, targets)",
)
