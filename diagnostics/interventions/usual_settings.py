"""Set single settings of the optimizer to what is usual."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject

USUAL: dict[str, Any] = {"betas": (0.9, 0.999), "momentum": 0.9, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0}


def changed_groups(subject: Subject, change: Callable[[dict[str, Any]], None]) -> Subject:
    """The subject with every group of its optimizer changed in place."""

    def optimizer(model: nn.Module) -> Optimizer:
        made = subject.optimizer(model)
        for group in made.param_groups:
            change(group)
        return made

    return replace(subject, optimizer=optimizer)


def usual(name: str, names: tuple[str, ...], does: str) -> Intervention:
    """Set these settings, where a group has them, to their usual values."""

    def change(group: dict[str, Any]) -> None:
        group.update({each: USUAL[each] for each in names if each in group})

    return Intervention(name=name, does=does, apply=lambda subject: changed_groups(subject, change))
