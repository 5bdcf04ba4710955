"""Attention scores are not divided by the root of the head's width.

Shows as:      a slow start, or a loss that stands early: near one-hot weights at initialisation.
Why it hurts:  a product of d_k terms grows like sqrt(d_k); a saturated softmax has no gradient.
Measured by:   attention-weights: the factor between the product of projected queries and keys and the softmax, and the
               size of the scores.
Judged by:     a factor that is at least UNSCALED (1 where 1/sqrt(d_k) is meant) with scores that spread by more than
               SPREAD, heads of at least NARROWEST, and queries not drawn smaller instead. Grade: sign.
Looks like:    attention-softmax-over-the-wrong-axis, embedding-scale.
Remedy:        scores = query @ key.transpose(-2, -1) / math.sqrt(d_k).
Blind spots:   rotary positions and normalised queries (the factor is then not known); division by d_k, which some
               recipes want (muP).
Source:        Vaswani et al. 2017, section 3.2.1. T5 (Raffel et al. 2020) leaves the factor out and draws the query
               projection 1/sqrt(d_k) smaller: MADE_UP. SPREAD: ours; 1/3 with torch's own initialisation, 1 with
               Xavier's, and sqrt(d_k) times that without the factor.
"""

import math
from collections.abc import Callable
from typing import Any, no_type_check

from torch import Tensor

from diagnostics.attention import plain_name
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.rewrite_attention import RewrittenAttention, planted_by
from diagnostics.interventions.scale_scores import SCALE_SCORES
from diagnostics.probe import read
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionFacts, AttentionWeights
from diagnostics.subject import Subject

UNSCALED = 0.8
SPREAD = 0.6
NARROWEST = 7
MADE_UP = 1.6


def judge(weights: AttentionWeights) -> Verdict:
    """Present where the factor is missing or turned round and the scores are large."""
    known = [each for each in weights.attentions if each.factor is not None and each.d_k >= NARROWEST]
    if not known:
        return not_tested(f"no attention of heads of at least {NARROWEST} was seen whose scores have one known factor")
    suspect = [each for each in known if is_unscaled(each)]
    if not suspect:
        worst = max(known, key=lambda each: (each.factor or 0.0) * math.sqrt(each.d_k))
        return absent(
            f"scores are multiplied by {worst.factor:.3g} or made up for by smaller queries; 1/sqrt({worst.d_k}) is "
            f"{worst.d_k**-0.5:.3g}"
        )
    worst = max(suspect, key=lambda each: each.spread or 0.0)
    sizes = (
        f"in {len(suspect)} of {len(known)} attentions products of {worst.d_k} terms are multiplied by "
        f"{worst.factor:.3g} where 1/sqrt({worst.d_k}) = {worst.d_k**-0.5:.3g} is meant; scores spread by "
        f"{worst.spread or 0.0:.3g}"
    )
    numbers = {"factor": worst.factor or 0.0, "spread": worst.spread or 0.0}
    if (worst.spread or 0.0) < SPREAD or not weights.untrained:
        return unclear(f"{sizes}, which is no size to worry about or was learned", **numbers)
    return present(sizes, **numbers)


def is_unscaled(facts: AttentionFacts) -> bool:
    """Whether the factor is missing and the queries are not drawn smaller instead."""
    made_up = facts.query_to_key is not None and facts.query_to_key < MADE_UP / math.sqrt(facts.d_k)
    plain = facts.form == "multi_head_attention_forward"
    return (facts.factor or 0.0) >= UNSCALED and not made_up and not plain


class Unscaled(RewrittenAttention):
    """While active, no factor stands between the product of queries and keys and the softmax."""

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave single factors on scores out."""
        found = self.score_factor(plain_name(func), args)
        if found is None:
            return super().call(func, args, kwargs)
        scores, factor = found
        self.changed += factor < 1
        return scores

    @no_type_check
    def dot_product(self, given: dict[str, Any]) -> Tensor:
        """scaled_dot_product_attention without its scale."""
        self.changed += "masks" not in given
        return super().dot_product(given | ({} if "masks" in given else {"scale": 1.0}))


def plant(subject: Subject) -> Subject:
    """The subject whose scores are not scaled.

    Raises:
        ValueError: it has no scaled scores that can be reached, or they stay small all the same.
    """
    planted = planted_by(subject, Unscaled, "no attention of this subject scales its scores where it can be reached")
    seen = read(ATTENTION_WEIGHTS, planted, 0).measurement
    if seen is None or judge(seen).status != "present":
        raise ValueError("the scores of this subject stay small without their factor")
    return planted


FAULT = Fault(
    id="scores-not-scaled",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=52,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(SCALE_SCORES,),
    looks_like=("attention-softmax-over-the-wrong-axis", "embedding-scale"),
    wrong="scores = query @ key.transpose(-2, -1)",
    right="scores = query @ key.transpose(-2, -1) / math.sqrt(d_k)",
)
