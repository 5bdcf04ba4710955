"""Let every attention weigh its keys, whatever axis its softmax names."""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.intervention import Intervention
from diagnostics.interventions.rewrite_attention import RewrittenAttention, fill, planted_by
from diagnostics.subject import Subject


class SoftmaxOverKeys(RewrittenAttention):
    """While active, the softmax of an attention is taken over the last axis of its scores."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights that sum to one over the keys."""
        self.changed += axis not in (-1, scores.dim() - 1)
        return fill(scores, hidden).softmax(-1)


def softmax_over_keys(subject: Subject) -> Subject:
    """The subject whose attentions normalise over their keys.

    Raises:
        ValueError: all of them do already.
    """
    return planted_by(subject, SoftmaxOverKeys, "every softmax of an attention is taken over its last axis already")


SOFTMAX_OVER_KEYS = Intervention(
    name="softmax-over-keys", does="take the softmax of every attention over its keys", apply=softmax_over_keys
)
