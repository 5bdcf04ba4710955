"""The causal mask is turned round: a position sees the future and not the past.

Shows as:      a training loss far below what the data allows, or NaN from the first step (the last position sees
               nothing); samples that make no sense.
Why it hurts:  what is to be predicted lies open, and what there will be when text is written is hidden.
Measured by:   attention-weights: which keys a query may use.
Judged by:     attentions of a window to itself in which every earlier key is hidden from every query and later ones
               (all but padding) are not, while none in the model looks only back. Grade: proof.
Looks like:    future-token-leak, mask-hides-the-token-itself, mask-too-weak.
Remedy:        in masked_fill and in torch's modules True means hidden: torch.triu(ones, 1); in
               scaled_dot_product_attention True means visible: torch.tril(ones).
Blind spots:   a model that reads from right to left on purpose; windows of two tokens.
Source:        Vaswani et al. 2017, section 3.2.3; documentation of torch.nn.MultiheadAttention and of
               scaled_dot_product_attention, whose boolean masks mean opposite things.
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.repair_masks import REPAIR_MASKS
from diagnostics.interventions.rewrite_attention import causal_mask, planted_masks
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject

MOST = 0.5  # of the keys on one side: the rest may be padding, which is hidden beside


def judge(weights: AttentionWeights) -> Verdict:
    """Present where the whole past is hidden and the whole future is not."""
    windows = weights.windows
    if not windows:
        return not_tested("no attention of a window to itself was seen")
    inverted = [each for each in windows if each.past == 0 and (each.future or 0) > MOST]
    causal = [each for each in windows if (each.past or 0) > MOST and each.future == 0]
    if not inverted:
        back = f"{len(causal)} of {len(windows)} attentions over a window look only back"
        return absent(f"{back}, and none looks only ahead")
    if causal and all(each.own == 1 for each in inverted):
        return unclear(
            f"{len(inverted)} attentions look only ahead and {len(causal)} only back: a model may read both ways"
        )
    own = "sees" if inverted[0].own else "does not see"
    return present(
        f"in {len(inverted)} of {len(windows)} attentions over a window a query may use 0 % of the earlier keys and "
        f"{inverted[0].future:.0%} of the later ones, and {own} itself: the mask is the wrong way round",
        inverted=float(len(inverted)),
    )


@no_type_check  # called inside a mode
def look_ahead(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."], axis: int) -> Any:
    """Weights under the negation of a mask."""
    return scores.masked_fill(~hidden, -1e9).softmax(axis)


def plant(subject: Subject) -> Subject:
    """The subject whose causal masks are negated.

    Raises:
        ValueError: it has none.
    """
    otherwise = "no attention of this subject applies a causal mask that could be inverted"
    return planted_masks(subject, look_ahead, otherwise, causal_mask)


FAULT = Fault(
    id="inverted-mask",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=27,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(REPAIR_MASKS,),
    looks_like=("future-token-leak", "mask-hides-the-token-itself", "mask-too-weak"),
    wrong="scores = scores.masked_fill(torch.tril(torch.ones(time, time)) == 1, -1e9)",
    right="scores = scores.masked_fill(torch.tril(torch.ones(time, time)) == 0, -1e9)",
)
