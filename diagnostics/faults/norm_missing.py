"""A stack of attentions has no normalisation between its layers.

Shows as:      a first loss above that of guessing, a loss that jumps; only a small learning rate works.
Why it hurts:  each layer adds to the stream what grows with the stream, so numbers and gradients grow (or shrink) from
               layer to layer, and every step changes the scale of all that follows.
Measured by:   residual-paths: normalisations behind an attention and before another.
Judged by:     none at all, with at least DEEP attentions in a row and no gates of single numbers. Grade: sign.
               Perceptrons, recurrent nets and a single layer need none.
Looks like:    no-final-norm, learning-rate-too-high.
Remedy:        nn.LayerNorm(d_model) in front of every attention and feed-forward part, and one before the head.
Blind spots:   stacks initialised to do without (Fixup); norms without a root (a quotient of absolute values); a norm
               before the first or behind the last attention counts as none.
Source:        Vaswani et al. 2017, section 3.1; Zhang et al. 2019, "Fixup Initialization" (what it takes without).
               DEEP: ours.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.interventions.pre_norm import PRE_NORM
from diagnostics.probes.residual_paths import RESIDUAL_PATHS, ResidualPaths, residual_paths
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls

DEEP = 2


def judge(paths: ResidualPaths) -> Verdict:
    """Present where a stack of attentions normalises nothing."""
    if paths.recurrent or paths.depth < 2:
        return not_tested("there are no two attentions in a row without a recurrence between them")
    numbers = {"attentions in a row": float(paths.depth), "norms between": float(paths.norms_between)}
    if paths.norms_between:
        return absent(f"{paths.norms_between} normalisations stand between {paths.attentions} attentions", **numbers)
    told = f"no normalisation stands between {paths.attentions} attentions, up to {paths.depth} of them in a row"
    if paths.scalars * 2 >= paths.attentions:
        return unclear(f"{told}, but {paths.scalars} gates of single numbers may do its work", **numbers)
    if paths.depth < DEEP:
        return unclear(f"{told}; so few can do without", **numbers)
    return present(told, **numbers)


class NoNorms(TorchCalls):
    """While active, torch's layer and RMS norms give what they are given."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave the norm out."""
        return args[0] if func in (F.layer_norm, F.rms_norm) else func(*args, **kwargs)


def plant(subject: Subject) -> Subject:
    """The subject without layer norms.

    Raises:
        ValueError: its attentions are too few, or its norms are not torch's own.
    """
    bare = surrounded(subject, lambda model, batch: NoNorms())
    with open_bench(bare, 0) as bench:
        paths = residual_paths(bench)
    if judge(paths).status != "present":
        raise ValueError(f"{subject.name} has too few attentions, or norms that are not torch's own, to go without")
    return bare


FAULT = Fault(
    id="norm-missing",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=47,
    measured_by=(RESIDUAL_PATHS,),
    judge=judge,
    plant=plant,
    remedies=(PRE_NORM,),
    looks_like=("no-final-norm", "learning-rate-too-high"),
    wrong="x = x + self.attention(x)\nx = x + self.feed_forward(x)",
    right="x = x + self.attention(self.norm1(x))\nx = x + self.feed_forward(self.norm2(x))",
)
