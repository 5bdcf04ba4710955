"""A mask is laid over the scores, but what it hides keeps its weight.

Shows as:      a training loss far below what the data allows although there is a mask.
Why it hurts:  -1e-9, a zero, or a boolean taken for a number leaves a score like any other; only minus infinity (or
               something that the exponential rounds to zero) hides a key.
Measured by:   attention-weights: the weight that the softmax gives to keys which a mask hides.
Judged by:     a mask (masked_fill, where, a product with zeros and ones, a sum with a tensor of two values, or a mask
               argument of torch's functions) whose hidden keys keep more than KEPT of a query's weight. Grade: proof.
Looks like:    future-token-leak, inverted-mask.
Remedy:        masked_fill(hidden, float("-inf")) before the softmax; a float mask of torch's modules is *added*: 0
               where a key is seen and -inf where it is hidden.
Blind spots:   masks of trained values or of more than two values.
Source:        Vaswani et al. 2017, section 3.2.3. KEPT: ours; -1e4 leaves exactly 0 in every precision, -10 about 1e-4,
               -1e-9 as much as there was.
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.repair_masks import REPAIR_MASKS
from diagnostics.interventions.rewrite_attention import planted_masks
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject

KEPT = 0.02


def judge(weights: AttentionWeights) -> Verdict:
    """Present where masked keys keep weight."""
    masked = [
        (each.hidden_weight, each.mask_value)
        for each in weights.attentions
        if each.hidden_weight is not None and each.mask_value is not None
    ]
    if not masked:
        return not_tested("no attention was seen that lays a mask over its scores")
    weak = [each for each in masked if each[0] > KEPT]
    if not weak:
        return absent(
            f"the masks of {len(masked)} attentions leave hidden keys at most {max(masked)[0]:.1g} of a weight"
        )
    weight, value = max(weak)
    return present(
        f"in {len(weak)} of {len(masked)} masked attentions hidden keys keep up to {weight:.2g} of a query's weight: "
        f"the mask puts {value:.3g} there, and only something like minus infinity hides",
        weight=weight,
        value=value,
    )


@no_type_check  # called inside a mode
def mask_weakly(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."], axis: int) -> Any:
    """Weights of scores whose hidden ones are about zero."""
    return scores.masked_fill(hidden, -1e-9).softmax(axis)


def plant(subject: Subject) -> Subject:
    """The subject whose masks fill in -1e-9.

    Raises:
        ValueError: none of its attentions applies a mask.
    """
    return planted_masks(subject, mask_weakly, "no attention of this subject applies a mask")


FAULT = Fault(
    id="mask-too-weak",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=28,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(REPAIR_MASKS,),
    looks_like=("future-token-leak", "inverted-mask"),
    wrong="scores = scores.masked_fill(hidden, -1e-9)",
    right='scores = scores.masked_fill(hidden, float("-inf"))',
)
