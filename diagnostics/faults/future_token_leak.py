"""Predictions can see the tokens they are asked to predict.

Shows as:      training loss far below what the data allows; samples that make no sense.
Why it hurts:  the model learns to copy what it will not have when it writes; nothing is left to learn.
Measured by:   token-influence: edit a token, watch the logits of the positions that must not know it.
Judged by:     the logits of a position moving when its own target or a later token is edited, with normalisation over
               positions set aside and what targets-not-shifted explains left out. Grade: proof.
Looks like:    targets-not-shifted, norm-over-the-wrong-axis (redundant: repairing one of two leaks changes nothing).
Remedy:        set the scores above the diagonal to minus infinity before the softmax, in every attention over a window
               that contains the targets: also in an encoder whose input overlaps them.
Blind spots:   models without a token view; a source that is no shifted copy of the targets is left alone, as it may be
               read whole (in a copy task it is a copy: let the token view leave it alone); a normalisation over
               positions that is written out inside a larger module counts as a leak.
Source:        Vaswani et al. 2017, section 3.2.3. Rounding: 1e-9 in double and 1e-4 in single precision, three digits
               above either.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.interventions.mask_attention import DOT_PRODUCT, MASK_ATTENTION, is_square
from diagnostics.probes.token_influence import STREAM, TOKEN_INFLUENCE, Movement, SourceInfluence, TokenInfluence
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls


def judge(influence: TokenInfluence) -> Verdict:
    """Present where a token behind what a position may know moves its logits."""
    sources, rounding = influence.sources, influence.rounding
    if not sources:
        return not_tested("neither an argument of the model nor the token stream is a shifted copy of the targets")
    leaking = [source for source in sources if leak(source, source.norms_aside, rounding) > rounding]
    named = [source for source in leaking if source.source != STREAM] or leaking or sources
    worst = max(named, key=lambda source: leak(source, source.norms_aside, rounding))
    size = leak(worst, worst.norms_aside, rounding)
    plainly = max(leak(source, source.plain, rounding) for source in sources)
    honest = f"{sum(influence.honest)} of {len(influence.honest)} positions are honest"
    if size > rounding:
        mask = "gone" if leak(worst, worst.masked, rounding) <= rounding else "still there"
        return present(
            f"editing a token of {worst.source} moves logits that must not know it by up to {size:.2g} standard "
            f"deviations, from up to {worst.norms_aside.reach} positions behind the target; {honest}; with attention "
            f"masked this is {mask}",
            movement=size,
            reach=float(worst.norms_aside.reach),
        )
    if plainly > rounding:
        return absent(
            f"later tokens move earlier logits by {plainly:.2g} standard deviations, but by none with the "
            f"{len(influence.norms)} normalisations over positions set aside: they carry it, not attention",
            movement=plainly,
        )
    if not any(max(source.plain.earlier, source.plain.own) > rounding for source in sources):
        return unclear("no edited token moves any logits: the input does not reach the output")
    aside = f"; {', '.join(influence.skipped)} may be read whole" if influence.skipped else ""
    return absent(f"no later token moves earlier logits by more than {plainly:.1g} standard deviations{aside}")


def leak(source: SourceInfluence, movement: Movement, rounding: float) -> float:
    """What later tokens move; with their own target, unless it is given to the model without a shift."""
    given_unshifted = source.masked.own > rounding and source.masked.later <= rounding
    explained = given_unshifted and (source.shift <= 0 or source.source == STREAM)
    return movement.later if explained else max(movement.later, movement.own)


class NoMask(TorchCalls):
    """While active, no attention over a window hides anything. ``removed`` counts the masks."""

    def __init__(self) -> None:
        super().__init__()
        self.removed = 0

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave the mask out of the calls that apply one."""
        kwargs = dict(kwargs)
        if func in (Tensor.masked_fill, torch.masked_fill) and is_square(args[0]):
            self.removed += 1
            return args[0]
        if func is F.scaled_dot_product_attention:
            given = dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs
            if given["query"].shape[-2] == given["key"].shape[-2]:
                self.removed += given.get("attn_mask") is not None or given.get("is_causal", False)
                return func(**given | {"attn_mask": None, "is_causal": False})
        if func is F.multi_head_attention_forward and kwargs.get("attn_mask") is not None:
            self.removed += 1
            kwargs |= {"attn_mask": None, "is_causal": False}
        return func(*args, **kwargs)


def plant(subject: Subject) -> Subject:
    """The subject without masks in its attention.

    Raises:
        ValueError: none of its calls applies a mask.
    """
    with open_bench(subject, 0) as bench, NoMask() as mode:
        bench.loss()
    if not mode.removed:
        raise ValueError("no attention of this subject applies a mask; there is nothing to leave out")
    return surrounded(subject, lambda model, batch: NoMask())


FAULT = Fault(
    id="future-token-leak",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=30,
    measured_by=(TOKEN_INFLUENCE,),
    judge=judge,
    plant=plant,
    remedies=(MASK_ATTENTION,),
    looks_like=("targets-not-shifted", "norm-over-the-wrong-axis"),
    follows_from=(
        "attention-softmax-over-the-wrong-axis",
        "inverted-mask",
        "mask-hides-the-token-itself",
        "mask-added-after-the-softmax",
        "mask-too-weak",
        "heads-mixed-by-a-view",
    ),
    wrong="weights = (query @ key.transpose(-2, -1) / d_k**0.5).softmax(-1)",
    right="scores = query @ key.transpose(-2, -1) / d_k**0.5\n"
    'weights = scores.masked_fill(~may_see, float("-inf")).softmax(-1)  # may_see: lower triangle',
)
