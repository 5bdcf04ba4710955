"""Labels are smoothed so strongly that the loss cannot get low.

Shows as:      a loss that stands well above zero even on one batch, while predictions are right.
Why it hurts:  the target is a mixture with the uniform distribution; its entropy is the lowest loss there is, and
               probabilities are pulled towards 1 / V.
Measured by:   loss-account: the label smoothing that the loss is called with, or that its soft targets hold.
Judged by:     a smoothing of at least STRONG. Grade: sign.
Looks like:    softmax-before-cross-entropy, at-the-entropy-floor.
Remedy:        label_smoothing=0.1 or none; compare losses only at the same smoothing.
Blind spots:   smoothing written out by hand other than with one-hot rows.
Source:        Vaswani et al. 2017, section 5.4: 0.1. STRONG: ours, three times that.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.usual_smoothing import USUAL_SMOOTHING, smoothed_by
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.smoothing import Smoothing
from diagnostics.subject import Subject

STRONG = 0.3
PLANTED = 0.5


def judge(account: LossAccount) -> Verdict:
    """Present where the smoothed target is far from one-hot."""
    if account.function is None:
        return not_tested("no call of cross_entropy or nll_loss was seen while the loss was computed")
    floor = Smoothing(amount=account.label_smoothing, classes=max(1, account.classes)).floor
    numbers = {"label smoothing": account.label_smoothing, "floor": floor}
    said = f"label smoothing is {account.label_smoothing:.3g}"
    if account.label_smoothing < STRONG:
        return absent(f"{said}; {STRONG:.3g} would be strong", **numbers)
    return present(
        f"{said} over {account.classes} classes: the entropy of such a target is {floor:.4f}, and no loss is lower",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject with half of every target spread over all classes."""
    return smoothed_by(PLANTED)(subject)


FAULT = Fault(
    id="label-smoothing-too-strong",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=14,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_SMOOTHING,),
    looks_like=("softmax-before-cross-entropy", "at-the-entropy-floor"),
    wrong="loss = F.cross_entropy(logits, targets, label_smoothing=0.9)  # meant as the share of the right class",
    right="loss = F.cross_entropy(logits, targets, label_smoothing=0.1)",
)
