"""Divide the scores of every attention by the root of the head's width, whatever factor they have."""

from collections.abc import Callable
from typing import Any, no_type_check

from torch import Tensor

from diagnostics.attention import plain_name
from diagnostics.intervention import Intervention
from diagnostics.interventions.rewrite_attention import RewrittenAttention, planted_by
from diagnostics.subject import Subject


class ScaledScores(RewrittenAttention):
    """While active, the one factor of scores is 1/sqrt(d_k); factors of the code's own are left out."""

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave factors on scores out."""
        found = self.score_factor(plain_name(func), args)
        return super().call(func, args, kwargs) if found is None else found[0]

    @no_type_check
    def softmax(self, chain: Any, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The weights of scaled scores."""
        self.changed += 1
        scaled = given * chain.d_k**-0.5
        return super().softmax(chain, scaled, args, kwargs)

    @no_type_check
    def dot_product(self, given: dict[str, Any]) -> Tensor:
        """scaled_dot_product_attention with its usual scale."""
        self.changed += given.get("scale") is not None
        return super().dot_product(given | {"scale": None})


def scale_scores(subject: Subject) -> Subject:
    """The subject whose scores are products of queries and keys over sqrt(d_k).

    Raises:
        ValueError: it has no attention whose scores can be reached.
    """
    return planted_by(subject, ScaledScores, "no attention of this subject could be scaled otherwise")


SCALE_SCORES = Intervention(
    name="scale-scores", does="divide the scores of every attention by sqrt(d_k)", apply=scale_scores
)
