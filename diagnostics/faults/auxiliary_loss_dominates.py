"""What is added to the cross-entropy outweighs it.

Shows as:      a loss that falls at first, as weights or router shares are driven somewhere, and then stands far above
               the cross-entropy, which hardly improves.
Why it hurts:  each step mostly serves the added term (a penalty on weights or logits, a balance of experts), and
               predictions are a side effect.
Measured by:   loss-account: the loss less the weighted cross-entropies, and the sizes of both gradients.
Judged by:     an added term whose gradient is more than DOMINANT times that of the cross-entropy in a fresh model.
               Grade: sign.
Looks like:    learning-rate-too-low, needs-more-steps.
Remedy:        a smaller factor on the added term (1e-4 for a z-loss, 1e-2 for a balance of experts), and print the
               two parts of the loss apart.
Blind spots:   losses with a second task of their own; added terms that grow in training.
Source:        Zoph et al. 2022 (ST-MoE): z-loss 1e-3; Chowdhery et al. 2022 (PaLM): 1e-4. DOMINANT: ours.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.edit_loss import must_classify
from diagnostics.interventions.only_cross_entropy import ONLY_CROSS_ENTROPY
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.subject import Batch, Subject

DOMINANT = 3.0
NOTEWORTHY = 1.0
PLANTED = 1.0  # factor on the sum of squared weights


def judge(account: LossAccount) -> Verdict:
    """Present where the added term has most of the gradient."""
    if account.cross_entropy is None or account.share is None or account.share.weight is None:
        return not_tested("what the targets count for cannot be read off this loss")
    rest = account.loss - account.cross_entropy
    said = f"of a loss of {account.loss:.4g} the cross-entropy is {account.cross_entropy:.4g}"
    numbers = {"loss": account.loss, "cross-entropy": account.cross_entropy}
    if account.other_gradient is None:
        return absent(said, **numbers)
    said += f" and something else {rest:.4g}, with {account.other_gradient:.3g} times the gradient"
    numbers["gradient of the rest"] = account.other_gradient
    if account.other_gradient > DOMINANT:
        return present(said, **numbers)
    return (unclear if account.other_gradient > NOTEWORTHY else absent)(said, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with the sum of its squared weights added to the loss.

    Raises:
        ValueError: it has a step of its own, or no cross-entropy.
    """
    must_classify(subject)
    if subject.step is not None:
        raise ValueError(f"{subject.name} has a step of its own; nothing can be added to its loss from outside")

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        penalty = sum((p.pow(2).sum() for p in model.parameters() if p.requires_grad), start=0.0)
        return subject.loss(model, batch) + PLANTED * penalty

    return replace(subject, loss=loss)


FAULT = Fault(
    id="auxiliary-loss-dominates",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=16,
    measured_by=(LOSS_ACCOUNT,),
    judge=judge,
    plant=plant,
    remedies=(ONLY_CROSS_ENTROPY,),
    looks_like=("learning-rate-too-low", "needs-more-steps"),
    wrong="loss = F.cross_entropy(logits, targets) + sum(p.pow(2).sum() for p in model.parameters())",
    right="loss = F.cross_entropy(logits, targets) + 1e-4 * logits.logsumexp(-1).pow(2).mean()",
)
