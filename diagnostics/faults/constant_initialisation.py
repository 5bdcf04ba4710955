"""Matrices start as one number throughout, and training cannot make their units different.

Shows as:      a loss that falls to what the frequencies of the targets allow, as if each layer had a single unit.
Why it hurts:  units with the same weights get the same gradient and stay the same; with zeros before and behind, the
               gradient is exactly zero and nothing moves at all.
Measured by:   symmetry: matrices that start constant, and whether a few small steps make their rows and columns differ.
Judged by:     a matrix that starts constant and still has all rows, or all columns, alike after the steps, or more
               than MOST of all matrices starting constant (random biases then break the symmetry, weakly). Grade:
               proof. A zero head, a zero last projection of a branch, or a low-rank factor of zeros becomes different
               at once and is healthy.
Looks like:    learning-rate-too-low, saturated-output.
Remedy:        leave torch's own initialisation alone, or draw matrices at random; only biases may all be zero.
Blind spots:   symmetry that only dropout breaks counts as a fault; matrices in three axes (fused heads) are not looked
               at, nor blocks of equal rows inside a matrix that is not constant.
Source:        Goodfellow et al. 2016, "Deep Learning", section 8.4 ("break symmetry between different units"). MOST:
               ours; zeroed branches and heads are at most half of a model's matrices.
"""

import torch
from torch import nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import rebuilt
from diagnostics.interventions.redraw_constants import REDRAW_CONSTANTS
from diagnostics.probes.symmetry import SYMMETRY, Symmetry, matrices_of
from diagnostics.subject import Subject

MOST = 0.6
PLANTED = 0.01


def judge(facts: Symmetry) -> Verdict:
    """Present where a matrix starts constant and stays so in its rows or columns."""
    if not facts.matrices and not facts.constant:
        return not_tested("the model has no trainable matrices")
    numbers = {
        "matrices": float(facts.matrices),
        "constant at the start": float(len(facts.constant)),
        "still alike": float(len(facts.still_alike)),
    }
    if not facts.constant:
        return absent(f"none of the {facts.matrices} matrices starts as one number throughout", **numbers)
    values = dict(facts.constant)
    share = len(facts.constant) / (facts.matrices + facts.frozen)
    if not facts.still_alike and share > MOST and len(facts.constant) > 1:
        return present(
            f"{len(facts.constant)} of {facts.matrices + facts.frozen} matrices start as one number throughout "
            f"({next(iter(values))}: {next(iter(values.values())):.3g}): only biases make their units differ",
            **numbers,
        )
    if not facts.still_alike:
        return absent(
            f"{len(facts.constant)} matrices start constant ({next(iter(values))}), but their rows differ after a few "
            "steps: the rest of the model breaks the symmetry",
            **numbers,
        )
    first = facts.still_alike[0]
    never = f"; {len(facts.without_gradient)} get a gradient of exactly zero" if facts.without_gradient else ""
    return present(
        f"{len(facts.still_alike)} of {facts.matrices} matrices start as one number throughout ({first}: "
        f"{values[first]:.3g}) and their rows or columns are still all alike after a few steps{never}: their units can "
        "never differ",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject whose matrices, embeddings aside, all start at 0.01, and whose random biases start at zero.

    Raises:
        ValueError: it has no two matrices to fill.
    """
    tables = {id(m.weight) for m in subject.model.modules() if isinstance(m, nn.Embedding)}
    names = [name for name, matrix in matrices_of(subject.model).items() if id(matrix) not in tables]
    if len(names) < 2:
        raise ValueError(f"{subject.name} has fewer than two matrices besides its embeddings; nothing to fill")

    def fill(model: nn.Module) -> None:
        with torch.no_grad():
            for name in names:
                model.get_parameter(name).fill_(PLANTED)
            for parameter in model.parameters():
                if parameter.dim() == 1 and bool((parameter != parameter[:1]).any()):
                    parameter.zero_()

    return rebuilt(subject, fill)


FAULT = Fault(
    id="constant-initialisation",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=40,
    measured_by=(SYMMETRY,),
    judge=judge,
    plant=plant,
    remedies=(REDRAW_CONSTANTS,),
    looks_like=("learning-rate-too-low", "saturated-output"),
    wrong="for p in model.parameters():\n    nn.init.constant_(p, 0.01)",
    right="for p in model.parameters():\n    if p.dim() > 1:\n        nn.init.xavier_uniform_(p)",
)
