"""The optimizer does not hold all of the model's trainable parameters.

Shows as:      a loss that stops early or never moves; parts of the model that stay exactly as they were drawn.
Why it hurts:  ``optimizer.step()`` changes only what the optimizer was given. An optimizer made before the model was
               replaced holds the parameters of the old one.
Measured by:   parameters: the optimizer's groups beside model.parameters().
Judged by:     any trainable parameter of the model that the optimizer lacks. Grade: proof. Parameters with
               requires_grad = False are frozen on purpose and do not count.
Looks like:    parameters-not-registered, learning-rate-too-low, saturated-output.
Remedy:        build the optimizer last, from model.parameters(); freeze by requires_grad_(False), not by leaving out.
Blind spots:   several optimizers that share the parameters between them, of which the subject names one.
Source:        torch.optim documentation, "Constructing it".
"""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.faults.parameters_not_registered import shown
from diagnostics.interventions.include_parameters import INCLUDE_PARAMETERS
from diagnostics.probes.parameters import PARAMETERS, Parameters
from diagnostics.subject import Subject


def judge(found: Parameters) -> Verdict:
    """Present where trainable parameters of the model are in no group of the optimizer."""
    share = found.not_in_optimizer_elements / max(found.trainable_elements, 1)
    numbers = {
        "missing tensors": float(len(found.not_in_optimizer)),
        "share of the numbers": share,
        "foreign": float(found.foreign),
    }
    if not found.not_in_optimizer:
        return absent("the optimizer holds every trainable parameter of the model", **numbers)
    foreign = f"; it holds {found.foreign} tensors that are not the model's" if found.foreign else ""
    return present(
        f"{len(found.not_in_optimizer)} of the model's trainable parameters ({share:.1%} of their numbers) are not in "
        f"the optimizer: {shown(found.not_in_optimizer)}{foreign}",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject whose optimizer has lost every other parameter of its groups."""

    def optimizer(model: nn.Module) -> Optimizer:
        made = subject.optimizer(model)
        for group in made.param_groups:
            group["params"] = group["params"][::2]
        return made

    return replace(subject, optimizer=optimizer)


FAULT = Fault(
    id="parameters-not-in-the-optimizer",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=61,
    measured_by=(PARAMETERS,),
    judge=judge,
    plant=plant,
    remedies=(INCLUDE_PARAMETERS,),
    looks_like=("parameters-not-registered", "learning-rate-too-low", "saturated-output"),
    follows_from=("optimizer-holds-old-parameters",),
    wrong="optimizer = AdamW(model.encoder.parameters())",
    right="optimizer = AdamW(model.parameters())",
)
