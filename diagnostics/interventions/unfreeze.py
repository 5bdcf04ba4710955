"""Let every parameter learn."""

from torch import nn

from diagnostics.intervention import Intervention, rebuilt
from diagnostics.interventions.include_parameters import with_all_parameters
from diagnostics.subject import Subject


def ask_for_gradients(model: nn.Module) -> None:
    """Let every parameter of floating point ask for a gradient."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)


def unfreeze(subject: Subject) -> Subject:
    """The subject whose parameters all ask for gradients and are all in the optimizer."""
    return with_all_parameters(rebuilt(subject, ask_for_gradients))


UNFREEZE = Intervention(name="unfreeze", does="let every parameter learn", apply=unfreeze)
