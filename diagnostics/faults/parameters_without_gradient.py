"""Parts of the model are never used: their parameters get no gradient, and the loss does not depend on them.

Shows as:      nothing by itself; a model that does less than its code says.
Why it hurts:  a layer that was made and is never called does not do what it was made for. Where it was meant to be
               spare (a pooler, a second head), it costs memory only.
Measured by:   gradient-reach: trainable parameters without a gradient that do not change the loss.
Judged by:     any of them, over several batches. Grade: deviation: harmless unless the part was meant to be used.
Looks like:    graph-cut, parameters-frozen.
Remedy:        call it in forward, or take it out.
Blind spots:   parts that are used only now and then (more batches than are looked at).
Source:        torch.nn.parallel.DistributedDataParallel, find_unused_parameters.
"""

from torch import nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.faults.parameters_not_registered import shown
from diagnostics.intervention import rebuilt
from diagnostics.probes.gradient_reach import GRADIENT_REACH, GradientReach
from diagnostics.subject import Subject


def judge(reach: GradientReach) -> Verdict:
    """Present where parameters play no part in the loss."""
    if not reach.parameters or not reach.connected:
        return not_tested("the loss leads back to no parameter")
    numbers = {"unused": float(len(reach.unused)), "numbers in them": float(reach.unused_numbers)}
    if not reach.unused:
        return absent(f"the loss depends on all {reach.parameters} trainable parameters", **numbers)
    return present(
        f"{len(reach.unused)} trainable parameters ({reach.unused_numbers:,} numbers) are never used: "
        f"{shown(reach.unused)}; harmless unless they were meant to be",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject with a layer that is never called."""

    def change(model: nn.Module) -> None:
        leaf = next(m for m in model.modules() if m._parameters and not m._modules)  # a container might call it
        leaf.register_module("spare", nn.Linear(7, 5))

    return rebuilt(subject, change)


FAULT = Fault(
    id="parameters-without-gradient",
    family="model",
    grade="deviation",
    concerns="neither",
    repair_rank=67,
    measured_by=(GRADIENT_REACH,),
    judge=judge,
    plant=plant,
    looks_like=("graph-cut", "parameters-frozen"),
    follows_from=("memory-not-used",),
    wrong="self.project = nn.Linear(d_model, d_model)   # and forward never calls it",
    right="attended = self.project(attended)",
)
