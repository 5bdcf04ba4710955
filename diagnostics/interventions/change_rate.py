"""Multiply the learning rate."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject


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
