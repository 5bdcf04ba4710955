"""Divide the scores of every attention by the root of the head's width, whatever factor they have."""

from collections.abc import Callable
from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.attention import FACTORS, PRODUCTS, plain_name, single_factor
from diagnostics.intervention import Intervention
from diagnostics.interventions.rewrite_attention import RewrittenAttention, fill, planted_by
from diagnostics.subject import Subject


class ScaledScores(RewrittenAttention):
    """While active, the one factor of scores is 1/sqrt(d_k); factors of the code's own are left out."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """The usual weights."""
        return fill(scores, hidden).softmax(axis)

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave factors on scores out."""
        given = next((a for a in args[:2] if isinstance(a, Tensor) and id(a) in self.chains), None)
        name = plain_name(func)
        known = given is not None and not self.chains[id(given)][1].softmaxed
        if known and name in FACTORS and name not in PRODUCTS and single_factor(name, args, given) is not None:
            return given
        return super().call(func, args, kwargs)

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
