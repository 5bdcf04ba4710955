"""The softmax of an attention is not taken over its keys.

Shows as:      a loss that stays near what the current token alone allows; in training far below it where later
               positions take part in the sum.
Why it hurts:  a query no longer chooses among keys: its weights sum to anything, the size of what it gathers depends on
               how many others look at the same key, and what is normalised together leaks from one to the other.
Measured by:   attention-weights: the weights that multiply the values, and what the softmax gave.
Judged by:     rows that do not sum to one over the keys, neither out of the softmax nor where they meet the values, by
               more than SUM_ERROR. Grade: proof.
Looks like:    mask-added-after-the-softmax, future-token-leak, batch-coupling.
Remedy:        scores of shape (..., query, key): softmax(dim=-1).
Blind spots:   scores that are no product of two activations (a linear map of a sum, as in additive attention).
Source:        Vaswani et al. 2017, equation 1. SUM_ERROR: ours; rounding gives 1e-6, half precision 1e-3, and a softmax
               over another axis of untrained scores about 1.
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.rewrite_attention import RewrittenAttention, fill, planted_by
from diagnostics.interventions.softmax_over_keys import SOFTMAX_OVER_KEYS
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject

SUM_ERROR = 0.02


def judge(weights: AttentionWeights) -> Verdict:
    """Present where rows sum to one neither out of the softmax nor before the values."""
    known = [
        (each.used_sum_error, each.softmax_sum_error, each)
        for each in weights.attentions
        if each.used_sum_error is not None and each.softmax_sum_error is not None
    ]
    if not known:
        return not_tested("no attention was seen whose weights are finite")
    wrong = [each for each in known if min(each[:2]) > SUM_ERROR]
    if not wrong:
        worst = max(softmax for _, softmax, _ in known)
        return absent(f"the softmax of each of {len(known)} attentions sums to 1 over the keys, within {worst:.1g}")
    used, _, facts = max(wrong, key=lambda each: each[0])
    return present(
        f"in {len(wrong)} of {len(known)} attentions the weights of a query do not sum to 1 over its {facts.keys} "
        f"keys: a sum is up to {used:.2g} away from it; the softmax is taken over another axis",
        error=used,
    )


class OverQueries(RewrittenAttention):
    """While active, the softmax of an attention is taken over its queries."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights that sum to one over the queries."""
        self.changed += scores.shape[-2] > 1
        return fill(scores, hidden).softmax(-2)


def plant(subject: Subject) -> Subject:
    """The subject whose attentions normalise over their queries.

    Raises:
        ValueError: it has no attention.
    """
    return planted_by(subject, OverQueries, "this subject has no attention whose softmax could be misplaced")


FAULT = Fault(
    id="attention-softmax-over-the-wrong-axis",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=26,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(SOFTMAX_OVER_KEYS,),
    looks_like=("mask-added-after-the-softmax", "future-token-leak", "batch-coupling"),
    wrong="weights = scores.softmax(dim=1)  # (batch, heads, query, key): over the heads",
    right="weights = scores.softmax(dim=-1)",
)
