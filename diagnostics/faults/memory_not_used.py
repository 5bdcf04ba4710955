"""The decoder never looks at what the encoder read.

Shows as:      a loss that stands where the targets alone can bring it; the same output for every source.
Why it hurts:  the source is all that tells one answer from another.
Measured by:   source-influence: replace all of the source, watch the scores that the loss is given.
Judged by:     no score moving at all while the model's weights, zeros included, are nudged, so that no gate is shut;
               for models that are given their targets and a source that is no copy of them. Grade: proof.
Looks like:    padding-mask-inverted, residual-missing, frozen-embedding.
Remedy:        keys and values of the attention to the source are the encoder's outputs, its queries the decoder's.
Blind spots:   a source that only a part of the decoder ignores; a model that is called with its source at another time
               (an encoder called by itself); a source that is a shifted copy of the targets; losses without classes.
Source:        Vaswani et al. 2017, section 3.2.3: "the memory keys and values come from the output of the encoder".
"""

from typing import Any, no_type_check

from jaxtyping import Bool, Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.rewrite_attention import RewrittenAttention, fill, planted_by
from diagnostics.probes.source_influence import SOURCE_INFLUENCE, SourceInfluence
from diagnostics.subject import Subject


def judge(influence: SourceInfluence) -> Verdict:
    """Present where a source moves no score."""
    if not influence.sources:
        return not_tested("the model is not called with its targets and a source that is no copy of them")
    if not influence.alive:
        return unclear("the scores are the same at every place: nothing of what the model is given reaches them")
    least = min(influence.sources, key=lambda each: each.moved)
    if 0 < least.moved <= influence.rounding:
        return unclear(f"another text in {least.argument} moves the scores by {least.moved:.1g}, as rounding may")
    if least.moved > 0:
        return absent(
            f"another text in {least.argument} moves the scores by {least.moved:.2g} standard deviations",
            movement=least.moved,
        )
    joins = {None: "", 0: "; no attention has keys of its length and queries of the targets'"}
    return present(
        f"replacing all of {least.argument} moves no score that the loss is given, not even by rounding, with weights "
        f"nudged so that no gate is shut: the predictions come from {' and '.join(influence.own)} alone"
        f"{joins.get(least.crossing, '')}",
        movement=least.moved,
    )


class ClosedMemory(RewrittenAttention):
    """While active, attentions with other keys than queries gather nothing."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights, or zeros."""
        weights = fill(scores, hidden).softmax(axis)
        if scores.shape[-1] == scores.shape[-2]:
            return weights
        self.changed += 1
        return weights * 0


def plant(subject: Subject) -> Subject:
    """The subject whose decoder gathers nothing from its source.

    Raises:
        ValueError: no attention has another number of keys than of queries.
    """
    return planted_by(subject, ClosedMemory, "no attention of this subject has another number of keys than of queries")


FAULT = Fault(
    id="memory-not-used",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=42,
    measured_by=(SOURCE_INFLUENCE,),
    judge=judge,
    plant=plant,
    looks_like=("padding-mask-inverted", "residual-missing", "frozen-embedding"),
    follows_from=("padding-mask-inverted", "attention-softmax-over-the-wrong-axis"),
    wrong="x = x + self.cross_attention(x, x, x, memory_mask)",
    right="x = x + self.cross_attention(x, memory, memory, memory_mask)",
)
