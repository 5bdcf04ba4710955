"""Other settings of the optimizer: learning rate, warm-up, clipping, the parameters that it holds."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject

WARM_UP_STEPS = 100  # as many as the short trials can pay for; the paper's 4000 are for 100,000 steps
CLIP_NORM = 1.0


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
