"""Take the limit on the gradient's length away, with steps in the usual order."""

from dataclasses import replace

from diagnostics.intervention import Intervention
from diagnostics.interventions.clip_gradients import CLIP_NORM
from diagnostics.subject import Subject


def loosen_clipping(subject: Subject) -> Subject:
    """The subject with gradients clipped to the usual norm, in the usual order."""
    return replace(subject, clip_norm=CLIP_NORM, step=None)


LOOSEN_CLIPPING = Intervention(
    name="loosen-clipping",
    does=f"clip gradients to a norm of {CLIP_NORM:.3g} only",
    apply=loosen_clipping,
)
