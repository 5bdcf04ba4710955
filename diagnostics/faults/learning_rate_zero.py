"""The learning rate is zero.

Shows as:      the same loss at every step, although gradients are there and optimizer.step runs.
Why it hurts:  nothing moves: a rate of 0 in the optimizer, or a schedule whose factor is 0 throughout (an integer
               division in a warm-up, a decay counted from its end).
Measured by:   optimizer-settings: the rates of all groups and the schedule over the run; step-bookkeeping: the rates
               at optimizer.step.
Judged by:     every rate times every factor is exactly zero, or below NEGLIGIBLE. Grade: proof. A warm-up that begins
               at zero and rises is fine.
Looks like:    step-never-called, learning-rate-too-low, gradients-zeroed-before-the-step.
Remedy:        a rate above zero; print the schedule before the first step.
Blind spots:   schedules that act inside the subject's own step after the rounds that are run here.
Source:        torch.optim.lr_scheduler, LambdaLR. NEGLIGIBLE: ours; no weight of usual size can move by it in float32.
"""

from dataclasses import replace

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.interventions.some_rate import SOME_RATE
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Subject

NEGLIGIBLE = 1e-14
ROUNDS = 2  # of the subject's own loop, with a rate of zero in each


def judge(settings: OptimizerSettings, steps: StepBookkeeping) -> Verdict:
    """Present where no step has a rate."""
    highest = settings.lr * settings.peak
    numbers = {"rate": settings.lr, "largest factor": settings.peak}
    told = f"the largest rate of any group is {settings.lr:.3g}, the schedule's largest factor {settings.peak:.3g}"
    if highest < NEGLIGIBLE:
        over = f" within {settings.horizon} steps" if settings.lr else ""
        return present(f"{told}{over}: no step can move anything", **numbers)
    seen = steps.rates
    if steps.own_step and len(seen) >= ROUNDS and max(seen) < NEGLIGIBLE and not steps.moved:
        return present(f"the loop sets the rate to {max(seen):.3g} at each of its first {len(seen)} steps", **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a warm-up that never begins: an integer division."""
    return replace(subject, schedule=lambda step: float(min(step, 4000) // 4001))


FAULT = Fault(
    id="learning-rate-zero",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=64,
    measured_by=(OPTIMIZER_SETTINGS, STEP_BOOKKEEPING),
    judge=judge,
    plant=plant,
    remedies=(SOME_RATE,),
    looks_like=("step-never-called", "learning-rate-too-low", "gradients-zeroed-before-the-step"),
    wrong="LambdaLR(optimizer, lambda step: step // 4000)",
    right="LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4000))",
)
