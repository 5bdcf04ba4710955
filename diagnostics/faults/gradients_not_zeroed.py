"""Gradients of the last step are still there when the next backward begins.

Shows as:      a loss that falls at first, then swings wider and wider, or stands still at a level far above the best.
Why it hurts:  backward adds to what is there. Without zero_grad every step follows the sum of all gradients so far,
               which points where the loss once was steep, not where it is steep now.
Measured by:   step-bookkeeping: the gradients that backward finds, after optimizer.step has used them.
Judged by:     more than SHARE of the parameters just stepped on still hold their old gradient when the next backward
               reaches them. Grade: proof. Gathering gradients over several backward passes before one step is fine.
Looks like:    learning-rate-too-high, accumulation-not-normalised.
Remedy:        optimizer.zero_grad() once for every optimizer.step(), before backward or right after the step.
Blind spots:   loops that the subject does not bring along as its step.
Source:        torch.optim, "Taking an optimization step". SHARE: ours; a loop that zeroes leaves none.
"""

from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.usual_step import USUAL_STEP
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Batch, Subject

SHARE = 0.5


def judge(steps: StepBookkeeping) -> Verdict:
    """Present where old gradients are still there at the next backward."""
    if steps.stale_share is None:
        return unclear("no backward followed an optimizer step that had seen a gradient")
    numbers = {"share with old gradients": steps.stale_share}
    told = (
        f"when backward begins again after optimizer.step, {steps.stale_share:.0%} of the parameters stepped on still "
        "hold the old gradient"
    )
    if steps.stale_share > SHARE:
        return present(f"{told}: every step follows the sum of all gradients so far; zero_grad is missing", **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a loop that never zeroes its gradients."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        loss = subject.loss(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    return replace(subject, step=step)


FAULT = Fault(
    id="gradients-not-zeroed",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=63,
    measured_by=(STEP_BOOKKEEPING,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_STEP,),
    looks_like=("learning-rate-too-high", "accumulation-not-normalised"),
    wrong="loss = model(batch)\nloss.backward()\noptimizer.step()",
    right="optimizer.zero_grad()\nloss = model(batch)\nloss.backward()\noptimizer.step()",
)
