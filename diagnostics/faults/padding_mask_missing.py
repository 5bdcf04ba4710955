"""Attention looks at the padding as if it were text.

Shows as:      a loss that depends on how much padding a batch holds, and answers that change with the other rows of a
               batch; short rows are predicted worst.
Why it hurts:  a share of every weight goes to places that say nothing, and what a row means depends on its neighbours.
Measured by:   padding-influence: change the embedding of padded places, watch the outputs at real ones.
Judged by:     outputs at real places moving by more than MOVED standard deviations, by none when padded keys are
               hidden from attention, while attention weights lie on them; the id must be named as padding by the token
               view, an embedding or the loss. Grade: proof.
Looks like:    mask-too-weak, padding-counted-in-loss.
Remedy:        mask padded keys in every attention over them, that of the decoder over the encoder's outputs included.
Blind spots:   padding whose id nobody names; embeddings that are looked up outside the model; an attention that finds
               the samples of a batch at an unusual place; recurrent layers, which read padding without attention.
Source:        Vaswani et al. 2017, section 3.2.3; torch.nn.MultiheadAttention, ``key_padding_mask``. MOVED: ours, four
               digits above rounding in double precision; in single precision ten times what rounding may move.
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.hide_padding import HIDE_PADDING, PaddingAware, is_key_mask, padding_changed_by
from diagnostics.interventions.rewrite_attention import fill
from diagnostics.probes.padding_influence import PADDING_INFLUENCE, PaddingInfluence
from diagnostics.subject import Subject

MOVED = 1e-5


def judge(influence: PaddingInfluence) -> Verdict:
    """Present where padding moves the outputs of text through attention."""
    if not influence.sources:
        return not_tested("no argument of the model that is looked up in a table is known to be padded")
    worst = max(influence.sources, key=lambda each: (not each.inverted and each.seeing > 0, each.moved))
    said = f"another embedding of the padding (id {worst.id}) in {worst.argument} moves outputs at real places by"
    numbers = {"movement": worst.moved, "weight on padding": worst.weight}
    least = max(MOVED, 10 * influence.rounding)
    if worst.moved <= least:
        if max(worst.moved, worst.moved_by_text) <= influence.rounding:
            return unclear(f"nothing in {worst.argument} moves any output, neither padding nor text")
        return absent(f"{said} {worst.moved:.1g} standard deviations, of text by {worst.moved_by_text:.2g}", **numbers)
    if worst.inverted:
        return absent(f"{said} {worst.moved:.2g} standard deviations, but the mask is there and turned round")
    if worst.moved_hidden is None or worst.moved_hidden > least or not worst.seeing:
        return unclear(f"{said} {worst.moved:.2g} standard deviations, but not through attention alone")
    if worst.known_from == "the rows":
        return unclear(f"{said} {worst.moved:.2g} standard deviations, but nobody calls that id padding")
    return present(
        f"{said} {worst.moved:.2g} standard deviations, and by {worst.moved_hidden:.1g} when padded keys are hidden: "
        f"{worst.seeing} of {worst.attentions} attentions over it give padding a weight of up to {worst.weight:.0%}",
        **numbers,
    )


class ShownPadding(PaddingAware):
    """While active, masks that hide nothing but keys leave padded ones visible."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights with padding."""
        padded = self.padded_keys(scores, hidden)
        if padded is not None and is_key_mask(hidden) and bool((hidden & padded).any()):
            self.changed += 1
            hidden = hidden & ~padded
        return fill(scores, hidden).softmax(axis)


def plant(subject: Subject) -> Subject:
    """The subject without the padding masks of its encoder and of the attention to it.

    Raises:
        ValueError: it has none.
    """
    return padding_changed_by(subject, ShownPadding, "no attention of this subject hides padded keys from all queries")


FAULT = Fault(
    id="padding-mask-missing",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=44,
    measured_by=(PADDING_INFLUENCE,),
    judge=judge,
    plant=plant,
    remedies=(HIDE_PADDING,),
    looks_like=("mask-too-weak", "padding-counted-in-loss"),
    follows_from=(
        "attention-softmax-over-the-wrong-axis",
        "batch-coupling",
        "batch-first-mismatch",
        "future-token-leak",
        "heads-mixed-by-a-view",
        "mask-added-after-the-softmax",
        "mask-too-weak",
        "norm-over-the-wrong-axis",
        "padding-mask-inverted",
    ),
    wrong="memory = encoder(embed(source))",
    right="memory = encoder(embed(source), src_key_padding_mask=source == padding_id)",
)
