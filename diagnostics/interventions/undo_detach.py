"""Keep the graph through whatever cuts it in the forward pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.intervention import Intervention, surrounded
from diagnostics.subject import Batch, Subject
from diagnostics.watch import TorchCalls


class WholeGraph(TorchCalls):
    """While active, ``detach``, ``.data`` and copies by ``torch.tensor`` keep the graph, and gradients stay on."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run it with gradients; what would cut gives its argument back."""
        getter = getattr(getattr(func, "__self__", None), "__name__", "") if func.__name__ == "__get__" else ""
        with torch.enable_grad():
            if func is Tensor.detach or getter == "data":
                return args[0].view_as(args[0])
            if func is torch.tensor and isinstance(args[0], Tensor):
                return args[0].clone()
            return func(*args, **kwargs)


def undo_detach(subject: Subject) -> Subject:
    """The subject whose loss keeps its graph, with steps in the usual order."""

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        return WholeGraph() if batch is not None and torch.is_grad_enabled() else nullcontext()

    return surrounded(replace(subject, step=None), surroundings)


UNDO_DETACH = Intervention(
    name="undo-detach",
    does="keep the graph through detach, .data and no_grad in the forward pass",
    apply=undo_detach,
)
