"""Keep gradients switched on in the forward pass, whatever switches them off there."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from diagnostics.intervention import Intervention, surrounded
from diagnostics.subject import Batch, Subject
from diagnostics.watch import TorchCalls


class WithGradients(TorchCalls):
    """While active, every torch function runs with gradients on and outside inference mode."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it with gradients."""
        with torch.inference_mode(False), torch.enable_grad():
            return func(*args, **kwargs)


def keep_gradients(subject: Subject) -> Subject:
    """The subject whose forward pass keeps its graph, unless gradients are off around the whole of it."""

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        return WithGradients() if batch is not None and torch.is_grad_enabled() else nullcontext()

    return surrounded(subject, surroundings)


KEEP_GRADIENTS = Intervention(
    name="keep-gradients", does="keep gradients switched on in the forward pass", apply=keep_gradients
)
