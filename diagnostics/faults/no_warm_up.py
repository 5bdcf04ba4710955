"""An adaptive optimizer starts at its full learning rate.

Shows as:      a first step that changes the weights by far more than any later one; with post-norm or deep stacks, a
               loss that never recovers from it.
Why it hurts:  Adam's first step has the size of the learning rate in every weight, however small the gradient, because
               its running averages know only one batch.
Measured by:   rate-scan: the schedule's first factor, and the same steps with and without a linear rise.
Judged by:     no schedule, or a first factor of at least FULL, with an adaptive optimizer. Grade: deviation: it departs
               from the 2017 recipe and is harmless unless a trial says otherwise.
Looks like:    learning-rate-too-high.
Remedy:        raise the rate linearly over the first steps.
Blind spots:   warm-up done inside the optimizer (RAdam), or by hand in the training loop.
Source:        Vaswani et al. 2017, section 5.3; Xiong et al. 2020 (post-norm needs it, pre-norm hardly). FULL: ours.
"""

from dataclasses import replace

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.interventions.warm_up import WARM_UP_STEPS, warm_up
from diagnostics.probes.rate_scan import RATE_SCAN, RateScan
from diagnostics.subject import Subject

FULL = 0.5


def judge(scan: RateScan) -> Verdict:
    """Present where the first step is taken at full rate; the numbers say what a warm-up would have done."""
    numbers = {"first factor": scan.first_factor, "end": scan.at(1.0).end, "end with warm-up": scan.warmed.end}
    if not scan.adaptive:
        return absent("the optimizer does not divide by running squares of gradients", **numbers)
    if scan.first_factor < FULL:
        return absent(f"the schedule starts at {scan.first_factor:.3g} of the learning rate", **numbers)
    return present(
        f"the first step is taken at {scan.first_factor:.3g} of the learning rate; {len(scan.warmed.losses)} steps end "
        f"at {scan.at(1.0).end:.3f} nats, with a linear rise at {scan.warmed.end:.3f}. This departs from the 2017 "
        "recipe; harmless unless a trial says otherwise",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject at a constant learning rate."""
    return replace(subject, schedule=None)


FAULT = Fault(
    id="no-warm-up",
    family="optimization",
    grade="deviation",
    concerns="fit",
    repair_rank=72,
    measured_by=(RATE_SCAN,),
    judge=judge,
    plant=plant,
    remedies=(warm_up(WARM_UP_STEPS),),
    looks_like=("learning-rate-too-high",),
    wrong="optimizer.step()                                       # step 0 at the full rate",
    right="group['lr'] = peak * min(1, (step + 1) / warmup_steps)\noptimizer.step()",
)
