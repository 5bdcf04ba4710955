"""nll_loss is given logits or probabilities where it expects log-probabilities.

Shows as:      a loss below zero: one that falls without end (logits), or that rests between -1 and 0 (probabilities).
Why it hurts:  nll_loss only picks the target's entry and turns its sign. Logits can be raised for every class at
               once, so nothing is learned about the right one; probabilities give hardly any gradient where they are
               small.
Measured by:   loss-account: ln of the sum of exponentials of the rows that nll_loss is given.
Judged by:     |ln sum exp| above UNNORMALISED for half of the rows, with no log-softmax over another axis in sight.
               Grade: proof. Of log-probabilities it is zero.
Looks like:    softmax-before-cross-entropy, saturated-output.
Remedy:        F.log_softmax before nll_loss, or F.cross_entropy on the logits.
Blind spots:   losses written out by hand.
Source:        torch.nn.NLLLoss: "the input given through a forward call is expected to contain log-probabilities".
               UNNORMALISED: ours; single precision leaves below 1e-5, half precision 1e-2.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.interventions.log_probabilities_for_nll import LOG_PROBABILITIES_FOR_NLL
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.subject import Subject

UNNORMALISED = 0.05


def judge(account: LossAccount) -> Verdict:
    """Present where the rows that nll_loss gets are no log-probabilities."""
    if account.function is None:
        return not_tested("no call of cross_entropy or nll_loss was seen while the loss was computed")
    if account.normaliser is None:
        return absent(f"the loss is {account.function}, which normalises its rows itself")
    said = f"ln of the sum of exponentials is {account.normaliser:.3g} in the rows that nll_loss is given"
    numbers = {"normaliser": account.normaliser, "loss": account.loss}
    if account.normaliser < UNNORMALISED:
        return absent(f"{said}: log-probabilities", **numbers)
    if account.normalised_axis is not None:
        return absent(f"{said}; a log-softmax is there, over axis {account.normalised_axis}", **numbers)
    return present(f"{said}; of log-probabilities it is 0. The loss starts at {account.loss:.3f}", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose cross_entropy is nll_loss on the softmax."""

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        axis = min(1, given["input"].dim() - 1)
        smooth = given.pop("label_smoothing", 0.0)
        if smooth or given["target"].is_floating_point():
            return func(**given | ({"label_smoothing": smooth} if func is F.cross_entropy else {}))
        return F.nll_loss(**given | {"input": given["input"].softmax(axis)})

    return with_edited_loss(subject, change)


FAULT = Fault(
    id="nll-loss-without-log",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=10,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    remedies=(LOG_PROBABILITIES_FOR_NLL,),
    looks_like=("softmax-before-cross-entropy", "saturated-output"),
    wrong="loss = F.nll_loss(logits.softmax(-1), targets)",
    right="loss = F.nll_loss(logits.log_softmax(-1), targets)",
)
