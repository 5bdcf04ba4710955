"""Smooth labels as much as is usual."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from diagnostics.intervention import Intervention
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.subject import Subject

USUAL = 0.1  # Vaswani et al. 2017, section 5.4


def smoothed_by(amount: float) -> Callable[[Subject], Subject]:
    """A change that sets the label smoothing of every cross_entropy."""

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        return func(**given | {"label_smoothing": amount}) if func is F.cross_entropy else func(**given)

    return lambda subject: with_edited_loss(subject, change)


USUAL_SMOOTHING = Intervention(name="usual-smoothing", does="smooth labels by 0.1", apply=smoothed_by(USUAL))
