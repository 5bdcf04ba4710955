"""Edit the arguments of the calls of a classification loss; what several plants and remedies share."""

from collections.abc import Callable
from typing import Any, no_type_check

import torch

from diagnostics.bench import open_bench
from diagnostics.intervention import surrounded
from diagnostics.subject import Subject
from diagnostics.watch import LOSS_ARGUMENTS, LOSSES, TorchCalls, watched_loss

LossChange = Callable[[Callable[..., Any], dict[str, Any]], Any]
"""The loss function and its arguments by name -> the loss."""


def must_classify(subject: Subject) -> None:
    """Refuse a subject whose loss calls neither cross_entropy nor nll_loss.

    Raises:
        ValueError: it does not.
    """
    with open_bench(subject, 0) as bench, torch.no_grad():
        _, watch = watched_loss(subject, bench.model.eval(), bench.batch(0))
    if all(call.by_hand for call in watch.losses):
        raise ValueError(f"the loss of {subject.name} calls neither cross_entropy nor nll_loss")


class LossEdit(TorchCalls):
    """While active, ``change`` makes every call of cross_entropy and nll_loss, with their arguments by name."""

    def __init__(self, change: LossChange) -> None:
        super().__init__()
        self.change = change

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand the losses over."""
        if func in LOSSES:
            return self.change(func, dict(zip(LOSS_ARGUMENTS, args, strict=False)) | kwargs)
        return func(*args, **kwargs)


def with_edited_loss(subject: Subject, change: LossChange) -> Subject:
    """The subject whose calls of cross_entropy and nll_loss are made by ``change``.

    Raises:
        ValueError: its loss makes no such call.
    """
    must_classify(subject)
    return surrounded(subject, lambda model, batch: LossEdit(change))
