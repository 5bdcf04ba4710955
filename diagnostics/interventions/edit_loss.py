"""Edit the arguments of the calls of a classification loss; what several plants and remedies share."""

from collections.abc import Callable
from typing import Any, no_type_check

from diagnostics.intervention import surrounded
from diagnostics.subject import Subject
from diagnostics.watch import LOSS_ARGUMENTS, LOSSES, TorchCalls

LossChange = Callable[[Callable[..., Any], dict[str, Any]], Any]
"""The loss function and its arguments by name -> the loss."""


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
    """The subject whose calls of cross_entropy and nll_loss are made by ``change``."""
    return surrounded(subject, lambda model, batch: LossEdit(change))
