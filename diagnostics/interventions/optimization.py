"""Other settings of the optimizer: learning rate, warm-up, clipping, the parameters that it holds."""

from dataclasses import replace
from statistics import median

from torch import nn
from torch.optim import Optimizer

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.probes.rate_scan import matrices, relative_updates
from diagnostics.subject import Subject

WARM_UP_STEPS = 100  # as many as the short trials can pay for; the paper's 4000 are for 100,000 steps
CLIP_NORM = 1.0
USUAL_UPDATE = 5e-3  # of the size of a matrix; Adam at 1e-3 gives 2e-3 to 2e-2 with the usual initialisations


def change_rate(factor: float) -> Intervention:
    """The learning rate of every group times ``factor``."""

    def apply(subject: Subject) -> Subject:
        def optimizer(model: nn.Module) -> Optimizer:
            made = subject.optimizer(model)
            for group in made.param_groups:
                group["lr"] = group["lr"] * factor
            return made

        return replace(subject, optimizer=optimizer)

    return Intervention(name="change-rate", does=f"multiply the learning rate by {factor:.3g}", apply=apply)


def first_update(subject: Subject) -> float:
    """Median over matrices of ||step|| / ||weights|| at the first step, at the rate that the schedule starts from.

    Raises:
        ValueError: the first step changes nothing.
    """
    with open_bench(replace(subject, schedule=None), 0) as bench:
        before = [p.detach().clone() for p in matrices(bench.model)]
        bench.train(bench.one_batch(), 1)
        updates = relative_updates(before, bench.model)
    if not updates or median(updates) == 0:
        raise ValueError(f"the first step changes no matrix of {subject.name}; no learning rate can mend that")
    return median(updates)


def usual_rate(subject: Subject) -> Subject:
    """The subject with the learning rate whose first step changes its matrices by USUAL_UPDATE of their size."""
    return change_rate(USUAL_UPDATE / first_update(subject)).apply(subject)


USUAL_RATE = Intervention(
    name="usual-rate",
    does=f"choose the learning rate whose first step changes the matrices by {USUAL_UPDATE:.1%}",
    apply=usual_rate,
)


def warm_up(steps: int) -> Intervention:
    """A linear rise of the learning rate over the first ``steps`` steps, on top of the subject's own schedule.

    Raises:
        ValueError: steps is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps ({steps}) must be at least 1; leave the intervention out for no warm-up")

    def apply(subject: Subject) -> Subject:
        own = subject.schedule
        return replace(
            subject, schedule=lambda step: min(1.0, (step + 1) / steps) * (1.0 if own is None else own(step))
        )

    return Intervention(name="warm-up", does=f"raise the learning rate linearly over {steps} steps", apply=apply)


def clip_gradients(norm: float) -> Intervention:
    """Gradients no longer than ``norm`` over all parameters."""
    return Intervention(
        name="clip-gradients",
        does=f"clip gradients to a norm of {norm:.3g}",
        apply=lambda subject: replace(subject, clip_norm=norm),
    )
