"""The loss leaves every single target out.

Shows as:      a loss that is NaN, or exactly zero, from the first step on.
Why it hurts:  a mean over no targets is 0 / 0; a sum over none is 0. Either way nothing is learned.
Measured by:   loss-account: how many targets the loss was given, and how many it kept.
Judged by:     targets given and none kept, in two batches. Grade: proof.
Looks like:    saturated-output, parameters-not-in-the-optimizer.
Remedy:        set ``ignore_index`` to the padding id alone, and fill labels with it only where there is padding.
Blind spots:   losses other than cross_entropy and nll_loss; masks that are multiplied with the loss.
Source:        torch.nn.CrossEntropyLoss, ``ignore_index``: such targets do "not contribute to the input gradient".
"""

from collections.abc import Callable
from typing import Any

import torch

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.subject import Subject


def judge(account: LossAccount) -> Verdict:
    """Present where the loss is a mean or sum over no targets."""
    if account.function is None or not account.targets:
        return not_tested("no call of cross_entropy or nll_loss was seen while the loss was computed")
    counts = f"{account.function} is given {account.targets} targets and leaves out {account.targets - account.kept}"
    numbers = {"targets": float(account.targets), "kept": float(account.kept)}
    if account.kept:
        return absent(counts, **numbers)
    if account.kept_later:
        return unclear(f"{counts} in the first batch; in the second it keeps {account.kept_later}", **numbers)
    return present(f"{counts}: the loss is {account.loss:.3g} whatever the model does", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with every target set to the index that is ignored."""

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        targets = given["target"]
        if targets.is_floating_point():
            return func(**given)
        return func(**given | {"target": torch.full_like(targets, given.get("ignore_index", -100))})

    return with_edited_loss(subject, change)


FAULT = Fault(
    id="all-targets-ignored",
    family="data",
    grade="proof",
    concerns="fit",
    repair_rank=12,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    looks_like=("saturated-output", "parameters-not-in-the-optimizer"),
    wrong="labels[attention_mask == 1] = -100  # everything but the padding\nloss = F.cross_entropy(logits, labels)",
    right="labels[attention_mask == 0] = -100  # the padding\nloss = F.cross_entropy(logits, labels)",
)
