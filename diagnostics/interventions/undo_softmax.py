"""Give the loss what went into the last softmax instead of what came out of it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diagnostics.intervention import Intervention, surrounded
from diagnostics.subject import Subject
from diagnostics.watch import SOFTMAXES


class LogitsForLoss(TorchFunctionMode):
    """While active, cross_entropy on the outcome of a softmax gets that softmax's input."""

    def __init__(self) -> None:
        super().__init__()
        self.softmaxes: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Remember softmax calls; swap the input of cross_entropy."""
        kwargs = dict(kwargs or {})
        if func is F.cross_entropy:
            given = kwargs.pop("input", None)
            rest = args[1:] if given is None else args
            return func(self.logits(args[0] if given is None else given), *rest, **kwargs)
        result = func(*args, **kwargs)
        if func in SOFTMAXES:
            self.softmaxes.append((args[0], result))
        return result

    def logits(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What these probabilities were made of; their logarithm where that call was not seen."""
        for before, after in reversed(self.softmaxes):
            if scores.data_ptr() == after.data_ptr() and scores.numel() == after.numel():
                same_layout = before.contiguous()
                if after.is_contiguous():
                    return same_layout.as_strided(scores.size(), scores.stride(), same_layout.storage_offset())
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


def undo_softmax(subject: Subject) -> Subject:
    """The subject whose cross-entropy gets logits."""
    return surrounded(subject, lambda model, batch: LogitsForLoss())


UNDO_SOFTMAX = Intervention(
    name="undo-softmax", does="give cross-entropy the numbers before the softmax", apply=undo_softmax
)
