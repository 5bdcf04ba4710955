"""Keep the learning rate constant."""

from dataclasses import replace

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject


def steady_rate(subject: Subject) -> Subject:
    """The subject without a schedule, its steps in the usual order."""
    return replace(subject, schedule=None, step=None)


STEADY_RATE = Intervention(
    name="steady-rate",
    does="keep the learning rate constant",
    apply=steady_rate,
)
