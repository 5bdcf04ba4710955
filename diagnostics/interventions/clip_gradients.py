"""Limit the length of the gradient."""

from dataclasses import replace

from diagnostics.intervention import Intervention

CLIP_NORM = 1.0


def clip_gradients(norm: float) -> Intervention:
    """Gradients no longer than ``norm`` over all parameters."""
    return Intervention(
        name="clip-gradients",
        does=f"clip gradients to a norm of {norm:.3g}",
        apply=lambda subject: replace(subject, clip_norm=norm),
    )
