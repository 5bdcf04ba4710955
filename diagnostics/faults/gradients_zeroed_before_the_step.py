"""Gradients are zeroed between backward and the optimizer's step.

Shows as:      a loss that never moves, or moves only as far as weight decay or momentum carry it.
Why it hurts:  optimizer.step() follows what is in ``.grad``; zero_grad() after backward() leaves nothing there.
Measured by:   step-bookkeeping: the gradients that backward brings, and those that optimizer.step sees.
Judged by:     a step that sees none although backward has brought some since the last step. Grade: proof.
Looks like:    step-never-called, learning-rate-zero, learning-rate-too-low.
Remedy:        zero_grad, loss, backward, step, in this order.
Blind spots:   loops that the subject does not bring along as its step.
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
    """Present where optimizer.step sees nothing of what backward has brought."""
    numbers = {"steps": float(steps.optimizer_steps), "steps without a gradient": float(steps.zeroed_steps)}
    if steps.optimizer_steps == 0:
        return unclear("the optimizer never takes a step", **numbers)
    if steps.zeroed_steps:
        return present(
            f"backward brings a gradient of norm {steps.summed_gradient:.3g}, and {steps.zeroed_steps} of "
            f"{steps.optimizer_steps} calls of optimizer.step see none at all: it is zeroed in between",
            **numbers,
        )
    return absent(f"what backward brings is there at each of {steps.optimizer_steps} optimizer steps", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a loop that zeroes its gradients right after backward."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        loss = subject.loss(model, batch)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
        return loss

    return replace(subject, step=step)


FAULT = Fault(
    id="gradients-zeroed-before-the-step",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=62,
    measured_by=(STEP_BOOKKEEPING,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_STEP,),
    looks_like=("step-never-called", "learning-rate-zero", "learning-rate-too-low"),
    wrong="loss.backward()\noptimizer.zero_grad()\noptimizer.step()",
    right="optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
)
