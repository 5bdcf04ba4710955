"""Give model and optimizer the parameters that they do not know."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention, rebuilt
from diagnostics.probes.parameters import unregistered
from diagnostics.subject import Subject


def register(model: nn.Module) -> None:
    """Register every hidden tensor with the model: trainable ones as parameters, constant ones as buffers.

    They stay where they are, too; the model gets a second name for each, ``found_0`` and so on.
    """
    for index, (_, tensor) in enumerate(sorted(unregistered(model).items())):
        if isinstance(tensor, nn.Parameter):
            model.register_parameter(f"found_{index}", tensor)
        elif not tensor.requires_grad:
            model.register_buffer(f"found_{index}", tensor)


def with_all_parameters(subject: Subject) -> Subject:
    """The subject whose optimizer has one more group with every trainable parameter that it lacked."""

    def optimizer(model: nn.Module) -> Optimizer:
        made = subject.optimizer(model)
        held = {id(p) for group in made.param_groups for p in group["params"]}
        missing = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
        if missing:
            made.add_param_group({"params": missing})
        return made

    return replace(subject, optimizer=optimizer)


def include_parameters(subject: Subject) -> Subject:
    """The subject whose model lists what it uses and whose optimizer holds all of it."""
    return with_all_parameters(rebuilt(subject, register))


INCLUDE_PARAMETERS = Intervention(
    name="include-parameters",
    does="give the model and the optimizer the tensors that they lack",
    apply=include_parameters,
)
