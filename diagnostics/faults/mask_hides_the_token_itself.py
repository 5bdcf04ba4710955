"""The causal mask also hides each token from itself.

Shows as:      NaN from the first step (the first position sees nothing), or, with a finite fill, a first position that
               looks at everything alike and so at the future.
Why it hurts:  the current token is what says most about the next one; and a row without any key has no softmax.
Measured by:   attention-weights: which keys a query may use.
Judged by:     attentions of a window to itself in which every earlier key may be used, and neither the later ones nor
               the query's own. Grade: proof.
Looks like:    inverted-mask, future-token-leak.
Remedy:        torch.triu(ones, diagonal=1) for what is hidden, torch.tril(ones) for what is seen.
Blind spots:   models that leave a token out of its own attention on purpose (XLNet's second stream, shared query and
               key); windows of two tokens.
Source:        Vaswani et al. 2017, section 3.2.3: "up to and including that position".
"""

from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.repair_masks import REPAIR_MASKS
from diagnostics.interventions.rewrite_attention import causal_mask, planted_masks
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject


def judge(weights: AttentionWeights) -> Verdict:
    """Present where a query may use all earlier keys and not its own."""
    windows = weights.windows
    if not windows:
        return not_tested("no attention of a window to itself was seen")
    strict = [each for each in windows if each.past == 1 and each.own == 0 and each.future == 0]
    if not strict:
        return absent(f"in none of {len(windows)} attentions over a window is just the query's own key hidden")
    return present(
        f"in {len(strict)} of {len(windows)} attentions over a window a query may use 100 % of the earlier keys and "
        "0 % of its own: the first position sees nothing at all (diagonal=0 instead of 1?)",
        strict=float(len(strict)),
    )


@no_type_check  # called inside a mode
def look_only_behind(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."], axis: int) -> Any:
    """Weights over the keys before the query alone."""
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(hidden | own, -1e9).softmax(axis)


def plant(subject: Subject) -> Subject:
    """The subject whose causal masks hide the diagonal.

    Raises:
        ValueError: it has none.
    """
    return planted_masks(subject, look_only_behind, "no attention of this subject applies a causal mask", causal_mask)


FAULT = Fault(
    id="mask-hides-the-token-itself",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=27,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(REPAIR_MASKS,),
    looks_like=("inverted-mask", "future-token-leak"),
    wrong="hidden = torch.triu(torch.ones(time, time, dtype=torch.bool), diagonal=0)",
    right="hidden = torch.triu(torch.ones(time, time, dtype=torch.bool), diagonal=1)",
)
