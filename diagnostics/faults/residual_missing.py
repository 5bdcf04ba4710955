"""The layers of an attention stack replace their input instead of adding to it.

Shows as:      a loss that rests near what the frequencies of the tokens allow; the deeper, the worse.
Why it hurts:  every layer must pass on all that the later ones need through softmax-weighted means and matrices. What
               one token was is mixed away within a few layers, and so is the gradient.
Measured by:   residual-paths: ways without a matrix from what an attention reads back past the attention before it.
Judged by:     no such way for at least MOST of the attentions that stand behind another, although nothing is detached.
               Grade: sign. Recurrent models have other ways.
Looks like:    learning-rate-too-low.
Remedy:        x = x + sublayer(x), around the attention and around the feed-forward part.
Blind spots:   a single layer; perceptrons and convolutions without attention; checkpointed or compiled parts.
Source:        He et al. 2016, "Deep Residual Learning"; Dong et al. 2021, "Attention is not all you need" (rank
               collapses without skips). MOST: ours; one of two stacks of an encoder-decoder.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.change_residuals import ADD_RESIDUALS, change_residuals
from diagnostics.probes.residual_paths import RESIDUAL_PATHS, ResidualPaths
from diagnostics.subject import Subject

MOST = 0.4


def judge(paths: ResidualPaths) -> Verdict:
    """Present where attentions read nothing but what the layer before them made."""
    if paths.recurrent or not paths.streams:
        return not_tested("there are no two attentions in a row without a recurrence between them")
    bare = paths.without_residual_attached
    numbers = {"streams": float(paths.streams), "without a residual": float(bare), "depth": float(paths.depth)}
    told = (
        f"{bare} of the {paths.streams} inputs of attentions behind another attention have no way around the layer "
        "before"
    )
    if bare >= MOST * paths.streams:
        return present(f"{told}: each layer replaces its input instead of adding to it", **numbers)
    if bare:
        return unclear(told, **numbers)
    return absent(f"all {paths.streams} inputs of attentions behind another have a way around the layer", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose branches are not added to the stream, but take its place."""
    return change_residuals(subject, lambda stream, branch: branch)


FAULT = Fault(
    id="residual-missing",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=45,
    measured_by=(RESIDUAL_PATHS,),
    judge=judge,
    plant=plant,
    remedies=(ADD_RESIDUALS,),
    looks_like=("learning-rate-too-low",),
    wrong="x = self.norm1(self.attention(x))\nx = self.norm2(self.feed_forward(x))",
    right="x = self.norm1(x + self.attention(x))\nx = self.norm2(x + self.feed_forward(x))",
)
