"""Gradients are clipped so far that the steps come to nothing.

Shows as:      a loss that creeps; a higher clipping norm speeds it up.
Why it hurts:  with plain gradient descent the step is the rate times the clipped gradient. Adam divides by the
               gradient's size and does not mind, until what is left falls below its epsilon.
Measured by:   step-bookkeeping: the gradient's length after backward and at optimizer.step, and the size of the update;
               optimizer-settings: whether the optimizer divides by the gradient's size, and its epsilon.
Judged by:     less than KEPT of the gradient reaches the step, in its own direction, and the update is under IDLE of
               the weights. Grade: sign.
Looks like:    learning-rate-too-low, scaler-misused.
Remedy:        a clipping norm near the typical gradient norm (print it), usually 1.0.
Blind spots:   clipping that merely slows.
Source:        Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", section 3.2.
               KEPT and IDLE: ours.
"""

import math
from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.loosen_clipping import LOOSEN_CLIPPING
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Batch, Subject

KEPT = 0.02
IDLE = 1e-4
PLANTED = 1e-12  # small enough for Adam's epsilon, too
SCALED = 1.9  # times the gradient of the loss: a loss scale or a sum, told elsewhere


def judge(steps: StepBookkeeping, settings: OptimizerSettings) -> Verdict:
    """Present where clipping leaves next to nothing."""
    before, after, moved = steps.summed_gradient, steps.stepped_norm, steps.relative_update
    if not before or not after or steps.closures or steps.zeroed_steps:
        return unclear("no gradient reaches both backward and a step")
    if not math.isfinite(before) or not math.isfinite(after):
        return unclear("the gradient is not finite; nothing can be told from its length")
    kept = after / before
    numbers = {"kept": kept, "norm before": before, "norm after": after, "update": moved or 0.0}
    told = f"of a gradient of norm {before:.3g} a norm of {after:.3g} reaches the step ({kept:.2g} of it)"
    if (steps.summed_scale or 0.0) > SCALED:
        return absent(f"{told}, scaled or summed before", **numbers)
    if kept >= KEPT:
        return absent(told, **numbers)
    decay = settings.decay_step if settings.weight_decay else 0.0
    size = max(0.0, (moved or 0.0) - decay)
    told += f", and the step changes the weights by {size:.2g} of their size"
    if size < IDLE and settings.lr * settings.peak > 0:
        return present(f"{told}: clipping leaves next to nothing", **numbers)
    return absent(f"{told}: the optimizer makes up for it", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a loop that clips to PLANTED."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = subject.loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), PLANTED)
        optimizer.step()
        return loss

    return replace(subject, step=step)


FAULT = Fault(
    id="clipping-too-tight",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=69,
    measured_by=(STEP_BOOKKEEPING, OPTIMIZER_SETTINGS),
    judge=judge,
    plant=plant,
    remedies=(LOOSEN_CLIPPING,),
    looks_like=("learning-rate-too-low", "scaler-misused"),
    wrong="clip_grad_norm_(model.parameters(), 1e-3)   # with SGD, lr=0.1",
    right="clip_grad_norm_(model.parameters(), 1.0)",
)
