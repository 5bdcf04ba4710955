"""Momentum or betas are far outside the range in which anybody trains.

Shows as:      a loss that moves late and then overshoots (momentum too long), or that jumps (squares
               averaged too short).
Why it hurts:  beta1 of 0.999 averages the gradient over a thousand steps; beta2 below beta1 divides it by a square that
               changes faster than it does. Swapped betas do both.
Measured by:   optimizer-settings: the momenta of the optimizer.
Judged by:     beta1 >= LONG_BETA, or beta2 <= SHORT_BETA, or beta1 more than SWAPPED above beta2, or a momentum of
               LONG_MOMENTUM or more. Grade: sign.
Looks like:    learning-rate-too-high, no-warm-up.
Remedy:        betas=(0.9, 0.999) or (0.9, 0.95); momentum=0.9.
Blind spots:   momenta that a schedule changes; averages inside optimizers of one's own.
Source:        Kingma and Ba 2015, "Adam", section 2 (defaults) and theorem 4.1 (beta1 squared below the root of beta2).
               The limits are ours: outside every published recipe that we know.
"""

from typing import Any

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.interventions.usual_momentum import USUAL_MOMENTUM
from diagnostics.interventions.usual_settings import changed_groups
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.subject import Subject

LONG_BETA = 0.99
SHORT_BETA = 0.5
SWAPPED = 0.04
LONG_MOMENTUM = 0.993


def judge(settings: OptimizerSettings) -> Verdict:
    """Present where a momentum is outside every recipe."""
    first, second, momentum = settings.beta1, settings.beta2, settings.momentum
    numbers = {
        name: value
        for name, value in (("beta1", first), ("beta2", second), ("momentum", momentum))
        if value is not None
    }
    told = ", ".join(f"{name} is {value:g}" for name, value in numbers.items()) or "the optimizer has no momentum"
    if first is not None and second is not None and second > 0:
        if first - second > SWAPPED:
            return present(
                f"{told}: the average of squares forgets faster than that of gradients (swapped?)", **numbers
            )
        if first >= LONG_BETA:
            return present(f"{told}: gradients are averaged over {1 / (1 - min(first, 0.999999)):.0f} steps", **numbers)
        if second <= SHORT_BETA:
            return present(f"{told}: squares are averaged over {1 / (1 - second):.1f} steps", **numbers)
    if momentum is not None and momentum >= LONG_MOMENTUM:
        return present(f"{told}: each gradient acts for {1 / (1 - min(momentum, 0.999999)):.0f} steps", **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with its betas swapped, or a momentum of 0.999.

    Raises:
        ValueError: its optimizer has neither.
    """
    group = subject.optimizer(subject.model).param_groups[0]
    if "betas" not in group and "momentum" not in group:
        raise ValueError(f"the optimizer of {subject.name} has no momentum")

    def change(group: dict[str, Any]) -> None:
        if "betas" in group:
            group["betas"] = (0.999, 0.9)
        else:
            group["momentum"] = 0.999

    return changed_groups(subject, change)


FAULT = Fault(
    id="momentum-out-of-range",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=72,
    measured_by=(OPTIMIZER_SETTINGS,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_MOMENTUM,),
    looks_like=("learning-rate-too-high", "no-warm-up"),
    wrong="Adam(model.parameters(), betas=(0.999, 0.9))",
    right="Adam(model.parameters(), betas=(0.9, 0.999))",
)
