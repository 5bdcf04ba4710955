"""The loss still falls: it needs more steps, not a repair.

Shows as:      a curve that looks flat on a linear axis and is a straight line on a logarithmic one.
Why it hurts:  it does not; looking for a fault in a run that is still learning costs more than letting it go on.
Measured by:   loss-curve: the slope of the last half with its error, and a power law through the whole.
Judged by:     a fall over the last half that is beyond its own noise and worth having. Grade: explanation.
Looks like:    learning-rate-too-low, at-the-entropy-floor.
Remedy:        more steps; a higher or warmed-up learning rate if the law's date is too far away.
Blind spots:   the law's floor is a guess from one curve, and so is every date that follows from it. A curve below 50
               points says too little. A loss that falls by copying the answer falls as well.
Source:        Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically" (power laws). FALLING, FALL:
               ours; the slope of constant curves with noise stays within 3.1 errors of zero in 84 made-up curves.
"""

import math
from dataclasses import replace

import torch

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.loss_curve import LOSS_CURVE, LossCurve
from diagnostics.subject import LossHistory, Subject

ENOUGH = 50  # points
FALLING = 5.0  # standard errors of the slope
PERHAPS = 3.0
FALL = 0.02  # nats over the last half; less is no progress that a person would wait for
MISFIT = 0.1  # of the fall that a law may be off by, beyond the spread of single losses, and still be extrapolated
HONEST = ("unigram", "bigram")  # the levels that a loss falls to on its way
PLANTED = 211


def judge(curve: LossCurve) -> Verdict:
    """Present where the last half falls beyond its noise."""
    half = curve.finite // 2
    fall = -curve.slope * half
    errors = -curve.slope / curve.slope_error if curve.slope_error > 0 else math.copysign(math.inf, fall or -1.0)
    numbers = {"standing": curve.standing, "fall over the last half": fall, "in standard errors": errors}
    if curve.finite < ENOUGH:
        return unclear(f"{curve.finite} finite losses are too few to see a fall; {ENOUGH} are enough", **numbers)
    seen = (
        f"over the last {half} steps it fell by {fall:.4f} nats ({errors:.1f} standard errors) to {curve.standing:.4f}"
    )
    if errors < PERHAPS or fall < FALL:
        return absent(f"{seen}, and has not left that value for {curve.stood_still} steps", **numbers)
    if errors < FALLING:
        return unclear(seen, **numbers)
    return present(f"{seen}; {outlook(curve)}", **numbers)


def outlook(curve: LossCurve) -> str:
    """When the curve would get somewhere if its law held."""
    law = curve.law
    fall = -curve.slope * curve.finite / 2
    if law is None or law.scale <= 0 or law.error > curve.spread + MISFIT * fall:
        return "no power law fits it, so there is no date"
    below = [level for level in curve.levels if level.name in HONEST and level.nats < curve.standing]
    target = max((level.nats for level in below), default=0.0)
    name = f"the {max(below, key=lambda level: level.nats).name} level" if below else ""
    if target <= law.floor:
        target, name = (curve.standing + law.floor) / 2, "half of what is left to its floor"
    return (
        f"by {law.floor:.3f} + {law.scale:.3g} * step^-{law.exponent:.2f} (error {law.error:.3f}) it reaches {name} "
        f"({target:.3f}) at about step {law.reaches(target):.2g}"
    )


def plant(subject: Subject) -> Subject:
    """The subject with a curve that falls by a power law, with noise."""
    steps = torch.arange(1, PLANTED + 1, dtype=torch.float64)
    noise = 0.02 * torch.randn(PLANTED, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return replace(subject, history=LossHistory(losses=tuple((1.5 + 4 * steps**-0.3 + noise).tolist())))


FAULT = Fault(
    id="needs-more-steps",
    family="optimization",
    grade="explanation",
    concerns="fit",
    repair_rank=75,
    measured_by=(LOSS_CURVE,),
    judge=judge,
    plant=plant,
    looks_like=("learning-rate-too-low", "at-the-entropy-floor"),
    wrong="steps = 500  # the loss fell by 0.1 over the last 250",
    right="steps = 50_000",
)
