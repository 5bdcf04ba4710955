"""Give every ReLU a slope below zero, and units about zero mean over the batch."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.layer_activity import RELUS
from diagnostics.watch import TorchCalls


class LeakyRelus(TorchCalls):
    """While active, a ReLU standardises its input over the features where all of it is below zero, and is a GELU."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the call of a ReLU."""
        if func in RELUS and args and isinstance(args[0], Tensor) and args[0].dim() > 1:
            return self.revived(args[0])
        return func(*args, **kwargs)

    def revived(self, given: Tensor) -> Tensor:
        """GELU of the input, which is normalised first."""
        return F.gelu(F.layer_norm(given, given.shape[-1:]))


LEAKY_RELUS = Intervention(
    name="leaky-relus",
    does="normalise what each ReLU is given, and give it a slope below zero",
    apply=lambda subject: surrounded(subject, lambda model, batch: LeakyRelus()),
)
