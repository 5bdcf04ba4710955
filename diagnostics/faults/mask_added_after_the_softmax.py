"""The mask is laid over the weights, after the softmax.

Shows as:      a training loss that later tokens still help; or, where minus infinity is filled in, NaN at once.
Why it hurts:  hidden keys stay in the denominator: the weights that are left sum to less than one and change with the
               future. A large negative number in place of a weight is not small, it is a huge weight.
Measured by:   attention-weights: what the softmax gave, and the weights that multiply the values.
Judged by:     rows that sum to one over the keys out of the softmax and not where they meet the values, with keys that
               lost a weight above LOST or got one below zero in between. Grade: proof.
Looks like:    attention-softmax-over-the-wrong-axis, future-token-leak, mask-too-weak.
Remedy:        scores.masked_fill(hidden, -inf).softmax(-1). After the softmax it is too late.
Blind spots:   rows of which nothing is left (a sample that is all padding) are passed over.
Source:        Vaswani et al. 2017, section 3.2.3: "masking out (setting to minus infinity) all values in the input of
               the softmax". LOST, SUM_ERROR: ours; nothing is lost in a healthy attention, up to rounding of 1e-6.
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.repair_masks import REPAIR_MASKS
from diagnostics.interventions.rewrite_attention import planted_masks
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionFacts, AttentionWeights
from diagnostics.subject import Subject

LOST = 0.02
SUM_ERROR = 0.02


def judge(weights: AttentionWeights) -> Verdict:
    """Present where a softmax over the keys is followed by taking keys out."""
    if not weights.attentions:
        return not_tested("no attention was seen")
    late = [each for each in weights.attentions if is_late(each)]
    if not late:
        return absent(f"in none of {len(weights.attentions)} attentions are keys taken out after the softmax")
    worst = max(late, key=lambda each: each.removed or 0.0)
    lost = f"up to {worst.removed:.2g} of a query's weight" if worst.removed else "hidden keys"
    return present(
        f"in {len(late)} of {len(weights.attentions)} attentions {lost} is taken out after the softmax, the smallest "
        f"weight then is {worst.smallest:.3g}: the mask comes too late",
        lost=worst.removed or 0.0,
    )


def is_late(facts: AttentionFacts) -> bool:
    """Whether the rows of one attention summed to one over the keys before some keys were taken out."""
    if facts.softmax_sum_error is None or facts.softmax_sum_error > SUM_ERROR:
        return False
    below_zero = facts.smallest is not None and facts.smallest < -1.0
    lost = facts.removed is not None and facts.removed > LOST
    return below_zero or (lost and facts.used_sum_error is not None and facts.used_sum_error > SUM_ERROR)


@no_type_check  # called inside a mode
def mask_late(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."], axis: int) -> Any:
    """Weights of all keys, those of hidden ones then set to zero."""
    return scores.softmax(axis).masked_fill(hidden, 0.0)


def plant(subject: Subject) -> Subject:
    """The subject whose masks come after the softmax.

    Raises:
        ValueError: none of its attentions applies a mask.
    """
    return planted_masks(subject, mask_late, "no attention of this subject applies a mask")


FAULT = Fault(
    id="mask-added-after-the-softmax",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=28,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(REPAIR_MASKS,),
    follows_from=("parameters-not-registered",),
    looks_like=("attention-softmax-over-the-wrong-axis", "future-token-leak", "mask-too-weak"),
    wrong="weights = scores.softmax(-1).masked_fill(hidden, 0.0)",
    right='weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)',
)
