"""Go through every mechanism by which interventions act, and change nothing."""

from dataclasses import replace

import torch
from torch import nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention, rebuilt, surrounded
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls


def placebo(subject: Subject) -> Subject:
    """The subject with its models handed through, its passes inside an idle function mode, its optimizer made anew.

    One random number is drawn before training, so that dropout falls otherwise: what then differs is what a change
    that does nothing does.
    """

    def optimizer(model: nn.Module) -> Optimizer:
        torch.rand(1)
        return subject.optimizer(model)

    idle = surrounded(rebuilt(subject, lambda model: None), lambda model, batch: TorchCalls())
    return replace(idle, optimizer=optimizer)


PLACEBO = Intervention(name="placebo", does="change nothing, by every mechanism that changes use", apply=placebo)
