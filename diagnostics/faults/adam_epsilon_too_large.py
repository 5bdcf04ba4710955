"""Adam's epsilon is far above the gradients, so that Adam no longer divides by anything that they have to do with.

Shows as:      a loss that hardly moves at a rate that suits Adam.
Why it hurts:  Adam divides by the root of the mean square plus epsilon. Where epsilon is larger, the step is the
               gradient times lr / epsilon: plain gradient descent with a rate of its own.
Measured by:   optimizer-settings: epsilon beside the root mean square of the gradient's entries.
Judged by:     an epsilon of LARGE or more that is ABOVE times that root mean square. Grade: sign.
Looks like:    learning-rate-too-low, clipping-too-tight.
Remedy:        eps=1e-8 (1e-7 to 1e-6 in half precision).
Blind spots:   gradients that shrink below epsilon later.
Source:        Kingma and Ba 2015, "Adam", algorithm 1. LARGE and ABOVE: ours; some recipes use 1e-3 on purpose, with
               gradients of that size.
"""

from typing import Any

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.interventions.usual_epsilon import USUAL_EPSILON
from diagnostics.interventions.usual_settings import changed_groups
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.subject import Subject

LARGE = 1e-3
ABOVE = 10.0
PLANTED = 100.0


def judge(settings: OptimizerSettings) -> Verdict:
    """Present where epsilon drowns the gradient's own size."""
    if settings.eps is None or not settings.adaptive:
        return absent("the optimizer does not divide by the gradient's size")
    numbers = {"epsilon": settings.eps, "gradient's entries": settings.gradient_rms}
    told = f"epsilon is {settings.eps:.3g}, the gradient's entries are {settings.gradient_rms:.2g} (root mean square)"
    if settings.gradient_rms > 0 and settings.eps >= max(LARGE, ABOVE * settings.gradient_rms):
        return present(f"{told}: the step is the plain gradient times {settings.lr / settings.eps:.2g}", **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with an epsilon of PLANTED.

    Raises:
        ValueError: its optimizer has no epsilon.
    """
    group = subject.optimizer(subject.model).param_groups[0]
    if "eps" not in group or "betas" not in group:
        raise ValueError(f"the optimizer of {subject.name} has no epsilon")

    def change(group: dict[str, Any]) -> None:
        group["eps"] = PLANTED

    return changed_groups(subject, change)


FAULT = Fault(
    id="adam-epsilon-too-large",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=72,
    measured_by=(OPTIMIZER_SETTINGS,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_EPSILON,),
    looks_like=("learning-rate-too-low", "clipping-too-tight"),
    wrong="Adam(model.parameters(), lr=1e-3, eps=1.0)",
    right="Adam(model.parameters(), lr=1e-3, eps=1e-8)",
)
