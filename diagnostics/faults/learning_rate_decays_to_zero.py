"""The learning rate falls to nothing early in the run.

Shows as:      a loss that falls for a while and then stays exactly where it is.
Why it hurts:  a scheduler stepped per batch instead of per epoch, or a decay over fewer steps than the run has, leaves
               most of the run without a rate.
Measured by:   optimizer-settings: the schedule's factor over the recorded history.
Judged by:     from EARLY of the run on the factor stays below a hundredth of its peak. Grade: sign. A decay that ends
               near the end of the run is as it should be.
Looks like:    learning-rate-too-low, needs-more-steps, learning-rate-zero.
Remedy:        step the scheduler once per what its length was counted in; total_steps of the whole run.
Blind spots:   schedules without a history to say how long the run was; schedulers inside the subject's own step.
Source:        torch.optim.lr_scheduler, "How to adjust learning rate". EARLY, NO_RUN: ours; cosine to zero passes a
               hundredth at 94 % of the run, a square root of steps never.
"""

from dataclasses import replace
from itertools import islice

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.steady_rate import STEADY_RATE
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.subject import LossHistory, Subject

EARLY = 0.5  # of the run
SHORTEST = 50  # steps of history; fewer say nothing
NO_RUN = 20  # steps: a rate that is gone by then was not planned, however long the run
PLANTED_STEPS, HALF_LIFE = 61, 2


def judge(settings: OptimizerSettings) -> Verdict:
    """Present where most of the run has no rate to speak of."""
    numbers = {"horizon": float(settings.horizon), "last factor": settings.last, "peak": settings.peak}
    if settings.faded_step is None:
        return absent(f"the schedule's factor is {settings.last:.3g} at step {settings.horizon}", **numbers)
    told = (
        f"the learning rate is below a hundredth of its peak from step {settings.faded_step} on, of "
        f"{settings.horizon} steps"
    )
    if not settings.from_history and settings.faded_step < NO_RUN:
        return present(f"{told}: no run is meant to be that short", **numbers)
    if not settings.from_history or settings.horizon < SHORTEST:
        return unclear(f"{told}; how long the run was meant to be is not known", **numbers)
    if settings.faded_step < EARLY * settings.horizon:
        return present(f"{told}: the rest of the run hardly moves", **numbers)
    return absent(f"{told}: near the end, as it should be", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a rate that halves every HALF_LIFE steps, and a history of PLANTED_STEPS such steps."""
    faded = replace(subject, schedule=lambda step: 0.5 ** (step / HALF_LIFE))
    with open_bench(faded, 0) as bench:
        losses = bench.train(islice(bench.fresh_batches(), PLANTED_STEPS), PLANTED_STEPS)
    return replace(faded, history=LossHistory(losses=tuple(losses)))


FAULT = Fault(
    id="learning-rate-decays-to-zero",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=68,
    measured_by=(OPTIMIZER_SETTINGS,),
    judge=judge,
    plant=plant,
    remedies=(STEADY_RATE,),
    looks_like=("learning-rate-too-low", "needs-more-steps", "learning-rate-zero"),
    wrong="scheduler = StepLR(optimizer, step_size=1, gamma=0.1)\nfor batch in loader:\n    scheduler.step()",
    right="for epoch in range(epochs):\n    for batch in loader:\n        train(batch)\n    scheduler.step()",
)
