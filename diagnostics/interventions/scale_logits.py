"""Make the logits larger or smaller by a constant factor."""

from collections.abc import Callable
from typing import Any

from diagnostics.intervention import Intervention, surrounded
from diagnostics.interventions.final_norm import NormalisedHead, head_shape
from diagnostics.subject import Subject
from diagnostics.watch import PRODUCTS, TorchCalls


class ScaledHead(TorchCalls):
    """While active, products with a matrix of the head's shape are multiplied by a factor."""

    def __init__(self, width: int, classes: int, factor: float) -> None:
        super().__init__()
        self.shape, self.factor = NormalisedHead(width, classes), factor

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen; multiply what the head gives."""
        result = func(*args, **kwargs)
        if func in PRODUCTS and len(args) > 1 and self.shape.is_head(func, args[1]):
            return result * self.factor
        return result


def scale_logits(factor: float) -> Intervention:
    """Logits times ``factor``, from outside; no weight is changed."""

    def apply(subject: Subject) -> Subject:
        given, classes = head_shape(subject)
        return surrounded(subject, lambda model, batch: ScaledHead(given.shape[-1], classes, factor))

    return Intervention(name="scale-logits", does=f"multiply the logits by {factor:.3g}", apply=apply)
