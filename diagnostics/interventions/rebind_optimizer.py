"""Give the optimizer the model's own parameters in place of strangers'."""

from dataclasses import replace

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject


def rebind_optimizer(subject: Subject) -> Subject:
    """The subject whose optimizer keeps its groups and settings and holds the model's parameters.

    A stranger's tensor is replaced by the model's next missing parameter of the same shape; what is still missing
    then goes to the first group.
    """

    def optimizer(model: nn.Module) -> Optimizer:
        made = subject.optimizer(model)
        own = {id(p) for p in model.parameters()}
        held = {id(p) for group in made.param_groups for p in group["params"]}
        missing = [p for p in model.parameters() if p.requires_grad and id(p) not in held]
        for group in made.param_groups:
            group["params"] = [p if id(p) in own else taken(missing, p) for p in group["params"]]
            group["params"] = [p for p in group["params"] if p is not None]
        made.param_groups[0]["params"] += missing
        made.state.clear()
        return made

    return replace(subject, optimizer=optimizer)


def taken(missing: list[nn.Parameter], stranger: Tensor) -> nn.Parameter | None:
    """The first missing parameter of a stranger's shape, taken out of the list; None where there is none."""
    index = next((i for i, p in enumerate(missing) if p.shape == stranger.shape), None)
    return None if index is None else missing.pop(index)


REBIND_OPTIMIZER = Intervention(
    name="rebind-optimizer",
    does="give the optimizer the model's own parameters, with the same settings",
    apply=rebind_optimizer,
)
