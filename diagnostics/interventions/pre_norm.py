"""Normalise what goes into every matrix of a sequence model."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from diagnostics.intervention import Intervention, surrounded
from diagnostics.watch import TorchCalls

AXES = 3  # batch, time, features


class NormalisedInputs(TorchCalls):
    """While active, what a linear map or an attention of torch's own is given is normalised over its features."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Normalise the first argument of a linear map, or the first three of an attention."""
        count = {F.linear: 1, F.multi_head_attention_forward: 3}.get(func, 0)
        normal = [
            F.layer_norm(each, each.shape[-1:]) if isinstance(each, Tensor) and each.dim() >= AXES else each
            for each in args[:count]
        ]
        return func(*normal, *args[count:], **kwargs)


PRE_NORM = Intervention(
    name="pre-norm",
    does="normalise what every linear map over a sequence is given",
    apply=lambda subject: surrounded(subject, lambda model, batch: NormalisedInputs()),
)
