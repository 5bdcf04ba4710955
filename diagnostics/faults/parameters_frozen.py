"""Weights that were drawn at random are frozen.

Shows as:      a loss that falls only as far as the rest of the model can take it, or does not move at all.
Why it hurts:  ``requires_grad = False`` keeps a weight as it is. That suits a pretrained part, not one that was just
               drawn at random.
Measured by:   gradient-reach: parameters that ask for no gradient, and whether another fresh model draws them anew.
Judged by:     nothing asks for a gradient at all, or matrices with SHARE of the model's numbers or more do not and are
               drawn anew for every fresh model; tables of embeddings are left out. Grade: proof. Where every fresh
               model holds the same numbers they may be pretrained, and nothing follows.
Looks like:    frozen-embedding, graph-cut, parameters-not-in-the-optimizer.
Remedy:        requires_grad_(True) on what is to learn, before the optimizer is built.
Blind spots:   without Subject.build random numbers cannot be told from pretrained ones; random features on purpose.
Source:        PyTorch, "Autograd mechanics", setting requires_grad. SHARE: ours.
"""

from torch import nn

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.faults.parameters_not_registered import shown
from diagnostics.intervention import rebuilt
from diagnostics.interventions.unfreeze import UNFREEZE
from diagnostics.probes.gradient_reach import GRADIENT_REACH, GradientReach
from diagnostics.subject import Subject

SHARE = 0.25


def judge(reach: GradientReach) -> Verdict:
    """Present where nothing learns, or much that is random does not."""
    frozen, share = len(reach.frozen), (reach.frozen_random or 0) / max(reach.numbers, 1)
    numbers = {"frozen": float(frozen), "share of random numbers": share}
    told = f"{frozen} matrices ask for no gradient ({shown(reach.frozen)})" if frozen else "no matrix is frozen"
    if reach.numbers and not reach.trainable_numbers:
        return present(f"none of the model's parameters asks for a gradient: nothing can learn; {told}", **numbers)
    if not frozen:
        return absent(told, **numbers)
    if reach.frozen_random is None:
        return unclear(f"{told}; they may be pretrained", **numbers)
    if share >= SHARE:
        return present(f"{told}, and they are random: {share:.0%} of the model's numbers never learn", **numbers)
    return absent(f"{told}; {share:.0%} of the model's numbers are frozen and random", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with every matrix but the last frozen."""

    def change(model: nn.Module) -> None:
        matrices = [p for p in model.parameters() if p.dim() > 1]
        for parameter in matrices[:-1]:
            parameter.requires_grad_(False)

    return rebuilt(subject, change)


FAULT = Fault(
    id="parameters-frozen",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=46,
    measured_by=(GRADIENT_REACH,),
    judge=judge,
    plant=plant,
    remedies=(UNFREEZE,),
    looks_like=("frozen-embedding", "graph-cut", "parameters-not-in-the-optimizer"),
    wrong="for p in model.parameters():\n    p.requires_grad = False\nmodel.head.requires_grad_(True)",
    right="for p in model.pretrained.parameters():\n    p.requires_grad = False",
)
