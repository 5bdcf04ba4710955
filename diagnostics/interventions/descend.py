"""Turn the step downhill: minimise, in the usual order, the loss with its usual sign."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.probes.step_bookkeeping import data_gradient
from diagnostics.subject import Batch, Subject


def is_negated(subject: Subject) -> bool:
    """Whether the loss falls as the criterion inside it rises."""
    with open_bench(subject, 0) as bench:
        slope = data_gradient(bench, bench.model.train(), bench.batch(0))[1]
    return slope is not None and slope < 0


def descend(subject: Subject) -> Subject:
    """The subject that goes down the slope of its criterion."""

    def optimizer(model: nn.Module) -> Optimizer:
        made = subject.optimizer(model)
        for group in made.param_groups:
            if "maximize" in group:
                group["maximize"] = False
        return made

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        return -subject.loss(model, batch)

    own = subject.schedule
    upright = None if own is None else (lambda step: abs(own(step)))
    turned = replace(subject, optimizer=optimizer, step=None, schedule=upright)
    return replace(turned, loss=loss) if is_negated(subject) else turned


DESCEND = Intervention(
    name="descend",
    does="go down the slope of the loss, with a step in the usual order",
    apply=descend,
)
