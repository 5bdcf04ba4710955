"""Take optimizer steps in the usual order: zero_grad, loss, backward, clip, step."""

from dataclasses import replace

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject


def usual_step(subject: Subject) -> Subject:
    """The subject without its own loop body: zero_grad, loss, backward, clip, step."""
    return replace(subject, step=None)


USUAL_STEP = Intervention(
    name="usual-step",
    does="take each step in the usual order (zero_grad, loss, backward, clip, step)",
    apply=usual_step,
)
