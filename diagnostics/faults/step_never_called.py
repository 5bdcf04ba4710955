"""The loop never completes an optimizer step: backward or optimizer.step is missing.

Shows as:      the same loss at every step, up to the difference between batches.
Why it hurts:  only optimizer.step() changes weights, and only backward() gives it something to follow. A GradScaler
               that meets an infinite gradient every time skips the step as well.
Measured by:   step-bookkeeping: gradients, optimizer steps and changed parameters over some of the loop's own rounds.
Judged by:     no parameter changes although the loss has a gradient, and optimizer.step never runs, or runs without
               any backward before it. Grade: proof.
Looks like:    learning-rate-zero, gradients-zeroed-before-the-step, optimizer-holds-old-parameters.
Remedy:        loss.backward() and optimizer.step(), with their parentheses, in every round.
Blind spots:   loops that gather gradients over more rounds than are run here (MOST_CALLS of the probe).
Source:        torch.optim, "Taking an optimization step".
"""

from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.usual_step import USUAL_STEP
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Batch, Subject


def judge(steps: StepBookkeeping) -> Verdict:
    """Present where nothing changes because backward or optimizer.step does not run."""
    numbers = {
        "rounds": float(steps.calls),
        "optimizer steps": float(steps.optimizer_steps),
        "moved": float(steps.moved),
        "gradient": steps.data_gradient,
    }
    if steps.moved:
        return absent(
            f"{steps.moved} of {steps.parameters} trainable parameters change in {steps.calls} rounds", **numbers
        )
    if not steps.own_step:
        return absent("the step is taken in the usual order", **numbers)
    if steps.stranger_steps and not steps.optimizer_steps:
        return absent("optimizer.step does run, on an optimizer that holds none of the model's parameters", **numbers)
    if not steps.data_gradient > 0:
        return unclear("no parameter changes, and the loss has no gradient that could move one", **numbers)
    told = f"in {steps.calls} rounds of the loop none of {steps.parameters} trainable parameters changes"
    if steps.optimizer_steps and not steps.backwards:
        return present(
            f"{told}: optimizer.step runs {steps.optimizer_steps} times and backward never, although the loss has a "
            f"gradient of norm {steps.data_gradient:.3g}",
            **numbers,
        )
    if steps.optimizer_steps:
        return absent(f"{told}, but optimizer.step does run {steps.optimizer_steps} times after backward", **numbers)
    skipped = "" if steps.finite else " (the gradients are not finite: a GradScaler skips such steps)"
    return present(
        f"{told}: optimizer.step never runs, although backward gathers a gradient of norm "
        f"{steps.summed_gradient:.3g}{skipped}",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject with a loop that forgets the step."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        loss = subject.loss(model, batch)
        loss.backward()
        return loss

    return replace(subject, step=step)


FAULT = Fault(
    id="step-never-called",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=62,
    measured_by=(STEP_BOOKKEEPING,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_STEP,),
    looks_like=("learning-rate-zero", "gradients-zeroed-before-the-step", "optimizer-holds-old-parameters"),
    wrong="loss.backward()\noptimizer.step   # no parentheses",
    right="loss.backward()\noptimizer.step()",
)
