"""Steps go up the slope of the loss.

Shows as:      a loss that climbs from the first step on, to infinity; with a negated loss, one that falls below zero.
Why it hurts:  maximize=True, ``(-loss).backward()``, a lost minus before a log-likelihood, an update by hand with a
               plus, a schedule that runs below zero: each turns learning into unlearning.
Measured by:   step-bookkeeping: the first update beside the gradient of the loss on the same batch, and the derivative
               of the loss by the criterion inside it; optimizer-settings: the lowest factor of the schedule.
Judged by:     an update along the gradient in UPHILL_SHARE of the parameters or more, or a loss that falls as its own
               cross-entropy, squared error or negative log-probability rises; both together cancel. Grade: proof.
               A schedule that falls below zero within the recorded history counts as well.
Looks like:    learning-rate-too-high.
Remedy:        minimise the loss: no maximize, no minus.
Blind spots:   losses written by hand without log_softmax or a criterion of torch.
Source:        torch.optim, parameter ``maximize``. UPHILL_SHARE, ALONG, AGAINST: ours; on healthy subjects no
               parameter goes uphill and the cosine is -0.2 to -1.
"""

from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.descend import DESCEND
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Batch, Subject

UPHILL_SHARE = 0.8
ALONG = 0.03  # cosine of the whole update with the gradient
AGAINST = -0.5  # cosine of what backward gathers with the gradient


def judge(steps: StepBookkeeping, settings: OptimizerSettings) -> Verdict:
    """Present where the criterion rises to first order."""
    slope, along, share = steps.criterion_slope, steps.update_along, steps.uphill_share
    numbers = {"update along the gradient": along or 0.0, "share uphill": share or 0.0, "criterion slope": slope or 0.0}
    negated = slope is not None and slope < 0
    if along is None or share is None:
        if negated:
            return present("the loss falls as the criterion inside it rises: its sign is lost", **numbers)
        return unclear("no update to compare with the gradient", **numbers)
    uphill = share >= UPHILL_SHARE and along > ALONG
    told = f"the first update has a cosine of {along:+.2f} with the loss's gradient ({share:.0%} of parameters uphill)"
    if uphill and not negated:
        why = "maximize is on" if steps.maximize else "the sign is lost on the way from the loss to the step"
        backward = steps.summed_along is not None and steps.summed_along < AGAINST
        why = "backward runs on the negated loss" if backward else why
        return present(f"{told}: it climbs; {why}", **numbers)
    if negated and not uphill:
        return present(f"{told}, and the loss falls as the criterion inside it rises: the criterion climbs", **numbers)
    if settings.from_history and settings.peak > 0 > settings.lowest:
        return present(
            f"the schedule's factor falls to {settings.lowest:.3g} within {settings.horizon} steps: a negative rate "
            "climbs",
            **numbers,
        )
    return absent(f"{told}: it goes down", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a loop that runs backward on the negated loss."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = subject.loss(model, batch)
        (-loss).backward()
        optimizer.step()
        return loss

    return replace(subject, step=step)


FAULT = Fault(
    id="gradient-of-the-wrong-sign",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=61,
    measured_by=(STEP_BOOKKEEPING, OPTIMIZER_SETTINGS),
    judge=judge,
    plant=plant,
    remedies=(DESCEND,),
    looks_like=("learning-rate-too-high",),
    wrong="loss = log_probabilities.gather(1, target).mean()",
    right="loss = -log_probabilities.gather(1, target).mean()",
)
