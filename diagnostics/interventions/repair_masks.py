"""Lay every mask over the scores, with full strength, and the right way round."""

from collections.abc import Callable
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.intervention import Intervention
from diagnostics.interventions.rewrite_attention import RewrittenAttention, fill, is_window, planted_by
from diagnostics.subject import Subject


class RepairedMasks(RewrittenAttention):
    """While active, what a mask hides is hidden before the softmax, and a window sees itself and what is before it."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights over the keys that a set-right mask leaves."""
        self.changed += hidden is not None
        return fill(scores, set_right(scores, hidden)).softmax(axis)

    @no_type_check
    def mask_weights(self, scores: Tensor, hidden: Tensor, weights: Callable[[], Tensor]) -> Tensor:
        """The mask of the weights, laid over the scores instead."""
        self.changed += 1
        return fill(scores, set_right(scores, hidden)).softmax(-1)


def set_right(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """The mask, turned round where it hides the whole past, and without what hides a token from itself."""
    if hidden is None or not is_window(scores, hidden):
        return hidden
    length = scores.shape[-1]
    gap = torch.arange(length, device=scores.device)[None] - torch.arange(length, device=scores.device)[:, None]
    inner = torch.ones(length, length, dtype=torch.bool, device=scores.device)
    inner[[0, -1]] = False
    if length > 2 and bool(hidden[..., inner & (gap < 0)].all()) and not bool(hidden[..., inner & (gap > 0)].all()):
        return (gap > 0).expand(hidden.shape)
    triangular = length > 2 and bool(hidden[..., inner & (gap >= 0)].all())
    return hidden & (gap != 0) if triangular else hidden


def repair_masks(subject: Subject) -> Subject:
    """The subject whose masks hide what they should.

    Raises:
        ValueError: none of its attentions applies a mask.
    """
    return planted_by(subject, RepairedMasks, "no attention of this subject applies a mask")


REPAIR_MASKS = Intervention(
    name="repair-masks",
    does="lay every mask over the scores with full strength, the right way round",
    apply=repair_masks,
)
