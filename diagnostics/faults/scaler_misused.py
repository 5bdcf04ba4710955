"""The gradient that the optimizer sees still carries the loss scale of mixed precision, or was clipped under it.

Shows as:      a loss that jumps at the first step (SGD), or training that crawls; "skipped" steps.
Why it hurts:  a GradScaler multiplies the loss by 65536 or so. ``optimizer.step()`` in place of ``scaler.step(...)``
               takes a step that much too long; clipping before ``scaler.unscale_`` cuts the scaled gradient, and what
               is left is divided by the scale once more.
Measured by:   step-bookkeeping: the gradient after backward and at optimizer.step beside that of the loss itself.
Judged by:     a gradient at the step that is a power of two of SMALLEST_SCALE or more times as long (never unscaled),
               or one so scaled after backward that reaches the step shorter than CUT of its true length, under a norm
               of PLAUSIBLE_NORM times the scale. Grade: proof.
Looks like:    learning-rate-too-high, clipping-too-tight, accumulation-not-normalised.
Remedy:        scaler.scale(loss).backward(); scaler.unscale_(optimizer); clip; scaler.step(optimizer);
               scaler.update().
Blind spots:   scales below SMALLEST_SCALE; scalers that are switched off.
Source:        PyTorch documentation, "Automatic Mixed Precision examples". The constants are ours.
"""

import math
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.usual_step import USUAL_STEP
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Batch, Subject

SMALLEST_SCALE = 512.0
POWER_OF_TWO = 0.1  # distance of the logarithm from a whole number: dropout moves it a little
ALONG = 0.7
CUT = 0.01
PLAUSIBLE_NORM = 100.0
PLANTED = 65536.0


def judge(steps: StepBookkeeping) -> Verdict:
    """Present where a loss scale reaches the step, or met the clipping."""
    summed, stepped, along = steps.summed_scale, steps.stepped_scale, steps.summed_along
    if summed is None or stepped is None or along is None:
        return unclear("no gradient reaches both backward and a step")
    numbers = {"scale after backward": summed, "scale at the step": stepped}
    told = (
        f"after backward the gradient is {summed:.4g} times that of the loss, at optimizer.step {stepped:.3g} times it"
    )
    if not is_scale(summed / max(steps.backwards, 1)) and not is_scale(summed):
        return absent(f"{told}: no loss scale", **numbers)
    if along > ALONG and stepped > SMALLEST_SCALE / 2:
        return present(f"{told}: the loss scale is never taken off; use scaler.step(optimizer)", **numbers)
    norm = (steps.stepped_norm or 0.0) * summed
    if stepped < CUT and norm < PLAUSIBLE_NORM:
        return present(
            f"{told}: it was clipped to {norm:.3g} while still scaled; call scaler.unscale_(optimizer) first", **numbers
        )
    return absent(f"{told}: the scale is taken off before the step", **numbers)


def is_scale(factor: float) -> bool:
    """Whether this is a power of two, large enough for a loss scale."""
    if factor < SMALLEST_SCALE / 1.1:
        return False
    power = math.log2(factor)
    return abs(power - round(power)) < POWER_OF_TWO


def plant(subject: Subject) -> Subject:
    """The subject with a loop that scales the loss, and calls optimizer.step itself."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = subject.loss(model, batch)
        (loss * PLANTED).backward()
        optimizer.step()
        return loss

    return replace(subject, step=step, clip_norm=None)


FAULT = Fault(
    id="scaler-misused",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=65,
    measured_by=(STEP_BOOKKEEPING,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_STEP,),
    looks_like=("learning-rate-too-high", "clipping-too-tight", "accumulation-not-normalised"),
    wrong="scaler.scale(loss).backward()\noptimizer.step()",
    right="scaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()",
)
