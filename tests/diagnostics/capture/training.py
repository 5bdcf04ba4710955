"""Small training loops that run under an observer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.capture.observer import Observer
from diagnostics.capture.recording import Recording

INPUTS, CLASSES, ROWS = 5, 3, 7


@contextmanager
def watched(name: str = "train.py") -> Iterator[Recording]:
    """A recording of what trains inside."""
    recording = Recording(name=name)
    with Observer(recording):
        yield recording


def points(count: int = 97) -> tuple[Tensor, Tensor]:
    """A table of points and their classes."""
    return torch.randn(count, INPUTS), torch.randint(CLASSES, (count,))


def network() -> nn.Module:
    """A small classifier."""
    return nn.Sequential(nn.Linear(INPUTS, 11), nn.Tanh(), nn.Linear(11, CLASSES))


class Training:
    """A script's data and model, and the loss of its next batch."""

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = network() if model is None else model
        self.inputs, self.targets = points()
        self.losses: list[float] = []

    def loss(self) -> Tensor:
        """The loss of a batch drawn at random."""
        rows = torch.randint(len(self.inputs), (ROWS,))
        loss = F.cross_entropy(self.model(self.inputs[rows]), self.targets[rows])
        self.losses.append(float(loss.detach()))
        return loss

    def run(self, step: Callable[[], object], steps: int = 5) -> Recording:
        """Watch so many steps."""
        with watched() as recording:
            for _ in range(steps):
                step()
        return recording

    def usual(self, *optimizers: Optimizer) -> Callable[[], None]:
        """A step: gradients dropped, backward, update."""

        def step() -> None:
            for each in optimizers:
                each.zero_grad()
            self.loss().backward()
            for each in optimizers:
                each.step()

        return step
