"""Give a run without a learning rate one."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention
from diagnostics.interventions.usual_rate import usual_rate
from diagnostics.subject import Subject

TRIED = 1e-3  # before it is fitted to the usual size of a first step


def some_rate(subject: Subject) -> Subject:
    """The subject with a constant rate whose first step has the usual size, in groups whose own rate is zero too."""

    def optimizer(model: nn.Module) -> Optimizer:
        made = subject.optimizer(model)
        if not any(group["lr"] for group in made.param_groups):
            for group in made.param_groups:
                group["lr"] = TRIED
        return made

    return usual_rate(replace(subject, optimizer=optimizer, schedule=None, step=None))


SOME_RATE = Intervention(
    name="some-rate",
    does="set a constant learning rate whose first step has the usual size",
    apply=some_rate,
)
