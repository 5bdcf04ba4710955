"""Give the loss what went into the last softmax instead of what came out of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.intervention import Intervention, surrounded
from diagnostics.model_call import before_softmax
from diagnostics.subject import Batch, Subject
from diagnostics.watch import LOG_SOFTMAXES, SOFTMAXES, ForwardWatch


class LogitsForLoss(ForwardWatch):
    """While active, cross_entropy (or log_softmax) on the outcome of a softmax gets that softmax's input."""

    @no_type_check  # the shape checks call torch themselves, and would be asked about that call too
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Remember softmax calls; swap the input of cross_entropy."""
        kwargs = dict(kwargs)
        if func is F.cross_entropy:
            given = kwargs.pop("input", None)
            given, rest = (args[0], args[1:]) if given is None else (given, args)
            return func(self.logits(given), *rest, **kwargs)
        if func in LOG_SOFTMAXES or func in SOFTMAXES:  # a cross-entropy that is written out
            return super().call(func, (before_softmax(self, args[0]), *args[1:]), kwargs)
        return super().call(func, args, kwargs)

    def logits(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What these probabilities were made of; their logarithm where that call was not seen."""
        before = before_softmax(self, scores)
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log() if before is scores else before


def undo_softmax(subject: Subject) -> Subject:
    """The subject whose cross-entropy gets logits, and whose token view shows them.

    The way it generates stays what it is: a softmax too many while sampling is a fault of its own.
    """
    changed, view = surrounded(subject, lambda model, batch: LogitsForLoss()), subject.token_view
    if view is None:
        return changed

    def logits(model: nn.Module, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        with ForwardWatch() as watch:
            return before_softmax(watch, view.logits(model, batch))

    return replace(changed, token_view=replace(view, logits=logits))


UNDO_SOFTMAX = Intervention(
    name="undo-softmax", does="give cross-entropy the numbers before the softmax", apply=undo_softmax
)
