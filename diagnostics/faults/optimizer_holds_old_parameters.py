"""The optimizer holds tensors of another model, and not this one's.

Shows as:      a loss that never moves although gradients, rate and step are all in order; or a new head that stays as
               it was drawn.
Why it hurts:  an optimizer keeps the tensors that it was given. When the model, or a part of it, is made anew, copied
               or loaded afterwards, it goes on stepping on the old ones.
Measured by:   parameters: the optimizer's tensors beside the model's and beside the ends of the loss's graph.
Judged by:     tensors in the optimizer that neither the model nor the loss knows, while parameters of the model are
               missing in it. Grade: proof. Tensors of a second model beside all of this one's are fine.
Looks like:    parameters-not-in-the-optimizer, step-never-called, learning-rate-too-low.
Remedy:        build the optimizer last, after the model is made, moved, loaded and changed.
Blind spots:   optimizers that the subject rebuilds for every copy of the model.
Source:        torch.optim documentation, "Constructing it".
"""

import copy
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.faults.parameters_not_registered import shown
from diagnostics.interventions.rebind_optimizer import REBIND_OPTIMIZER
from diagnostics.probes.parameters import PARAMETERS, Parameters
from diagnostics.subject import Subject


def judge(found: Parameters) -> Verdict:
    """Present where the optimizer holds strangers in the place of the model's parameters."""
    missing = len(found.not_in_optimizer)
    numbers = {"strangers": float(found.foreign), "missing": float(missing)}
    if found.foreign and missing:
        return present(
            f"the optimizer holds {found.foreign} tensors that are not the model's and play no part in the loss, and "
            f"lacks {missing} parameters that are ({shown(found.not_in_optimizer)}): it was built for another model, "
            "before this one was made or changed",
            **numbers,
        )
    if found.foreign:
        return absent(f"the optimizer holds all of the model's parameters beside {found.foreign} others", **numbers)
    return absent("the optimizer holds no tensors but the model's", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose optimizer is built for a copy of the model."""

    def optimizer(model: nn.Module) -> Optimizer:
        return subject.optimizer(copy.deepcopy(model))

    return replace(subject, optimizer=optimizer)


FAULT = Fault(
    id="optimizer-holds-old-parameters",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=61,
    measured_by=(PARAMETERS,),
    judge=judge,
    plant=plant,
    remedies=(REBIND_OPTIMIZER,),
    looks_like=("parameters-not-in-the-optimizer", "step-never-called", "learning-rate-too-low"),
    wrong="optimizer = AdamW(model.parameters())\nmodel = copy.deepcopy(model)",
    right="model = copy.deepcopy(model)\noptimizer = AdamW(model.parameters())",
)
