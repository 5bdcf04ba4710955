"""The padding mask is turned round: attention sees the padding and not the text.

Shows as:      an encoder-decoder that learns no more than its targets alone tell; NaN where a row has no padding and
               masks are minus infinity.
Why it hurts:  what is read is hidden from everything that could use it.
Measured by:   padding-influence: the weights of padded keys, and what padding and text move.
Judged by:     an attention whose mask leaves padded keys all of the weight (more than 0.99 of it for every query at a
               real place) in rows that hold text. Grade: proof.
Looks like:    padding-mask-missing, nonfinite-values.
Remedy:        in masked_fill and in torch's key_padding_mask True means hidden: source == padding_id; in
               scaled_dot_product_attention and with ``mask == 0`` True means visible: source != padding_id.
Blind spots:   as for padding-mask-missing (but nobody needs to name the id: the mask does); rows that are all filled.
Source:        documentation of torch.nn.MultiheadAttention and of scaled_dot_product_attention, whose boolean masks
               mean opposite things. 0.99: ours; softmaxes without a mask give one per cent to the rest.
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.hide_padding import HIDE_PADDING, PaddingAware, is_key_mask, padding_changed_by
from diagnostics.interventions.rewrite_attention import fill
from diagnostics.probes.padding_influence import PADDING_INFLUENCE, PaddingInfluence
from diagnostics.subject import Subject


def judge(influence: PaddingInfluence) -> Verdict:
    """Present where a mask leaves padding all of the weight."""
    if not influence.sources:
        return not_tested("no argument of the model that is looked up in a table is known to be padded")
    worst = max(influence.sources, key=lambda each: each.inverted)
    numbers = {"weight on padding": worst.weight}
    if not worst.attentions:
        return not_tested(f"no attention has the positions of {worst.argument} as its keys")
    if not worst.inverted:
        return absent(
            f"of {worst.attentions} attentions over {worst.argument} none has a mask that leaves padding (id "
            f"{worst.id}) all of the weight; the largest share is {worst.weight:.0%}",
            **numbers,
        )
    reacts = f"changing the padding moves the outputs by {worst.moved:.2g} standard deviations"
    if worst.moved_by_text <= influence.rounding:
        reacts += ", changing all of that text by none"
    return present(
        f"{worst.inverted} of {worst.attentions} attentions over {worst.argument} give padding (id {worst.id}) "
        f"{worst.weight:.0%} of the weight, and text that stands in the same row nothing: the mask hides the text; "
        f"{reacts}",
        **numbers,
    )


class InvertedPadding(PaddingAware):
    """While active, masks that hide nothing but padded keys hide the others instead."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights of padding."""
        padded = self.padded_keys(scores, hidden)
        if padded is not None and is_key_mask(hidden) and bool((hidden == padded).all()):
            self.changed += 1
            hidden = ~hidden
        return fill(scores, hidden).softmax(axis)


def plant(subject: Subject) -> Subject:
    """The subject with the padding masks of its encoder and of the attention to it negated.

    Raises:
        ValueError: it has none.
    """
    return padding_changed_by(subject, InvertedPadding, "no attention of this subject hides exactly the padded keys")


FAULT = Fault(
    id="padding-mask-inverted",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=43,
    measured_by=(PADDING_INFLUENCE,),
    judge=judge,
    plant=plant,
    remedies=(HIDE_PADDING,),
    looks_like=("padding-mask-missing", "nonfinite-values"),
    wrong="scores = scores.masked_fill((source != padding_id)[:, None, None], -1e9)",
    right="scores = scores.masked_fill((source == padding_id)[:, None, None], -1e9)",
)
