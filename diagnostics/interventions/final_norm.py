"""Put a layer normalisation in front of the last matrix, or take away the one that is there."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt, surrounded
from diagnostics.subject import Subject
from diagnostics.watch import PRODUCTS, TorchCalls, head_input, watched_loss


class NormalisedHead(TorchCalls):
    """While active, what goes into a product with a matrix of the head's shape is normalised over its features."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width, self.classes = width, classes

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Normalise the first factor where the second is the head."""
        if func in PRODUCTS and len(args) > 1 and self.is_head(func, args[1]):
            args = (F.layer_norm(args[0], (self.width,)), *args[1:])
        return func(*args, **kwargs)

    def is_head(self, func: Callable[..., Any], factor: Tensor) -> bool:
        """Whether a factor has the shape of the head: (classes, width) for linear, its transpose for matmul."""
        expected = (self.classes, self.width) if func is F.linear else (self.width, self.classes)
        return tuple(factor.shape) == expected


def head_shape(subject: Subject) -> tuple[Tensor, int]:
    """What goes into the last matrix on the first batch, and how many classes come out of it.

    Raises:
        ValueError: no classification loss, or no last matrix, was seen.
    """
    with open_bench(subject, 0) as bench, torch.no_grad():
        _, watch = watched_loss(subject, bench.model.eval(), bench.batch(0))
    classes = watch.losses[-1].scores.shape[1] if watch.losses else 0
    given = head_input(watch, classes)
    if given is None:
        raise ValueError(f"{subject.name} has no matrix that gives the scores of a cross-entropy; its head is unknown")
    return given, classes


def final_norm(subject: Subject) -> Subject:
    """The subject with its head's input normalised."""
    given, classes = head_shape(subject)
    return surrounded(subject, lambda model, batch: NormalisedHead(given.shape[-1], classes))


FINAL_NORM = Intervention(name="final-norm", does="normalise what goes into the last matrix", apply=final_norm)


class FactorWatch(TorchCalls):
    """Remembers the second factor of the last matrix product that gives ``classes`` numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.factor: Tensor | None = None

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and note its second factor."""
        result = func(*args, **kwargs)
        if func in PRODUCTS and len(args) > 1 and result.dim() > 1 and result.shape[-1] == self.classes:
            self.factor = args[1]
        return result


def head_weight(subject: Subject) -> str:
    """Name of the parameter that the head multiplies with; of a tied one, its first name.

    Raises:
        ValueError: the last matrix is not a parameter.
    """
    _, classes = head_shape(subject)
    with open_bench(subject, 0) as bench, torch.no_grad(), FactorWatch(classes) as watch:
        bench.loss(bench.model.eval())
        for name, parameter in bench.model.named_parameters():
            if watch.factor is not None and parameter.data_ptr() == watch.factor.data_ptr():
                return name
    raise ValueError(f"the last matrix of {subject.name} is not one of its parameters")


def norm_before_head(subject: Subject) -> str:
    """Name of the module without submodules and matrices whose output is the head's input.

    Raises:
        ValueError: there is none.
    """
    given, _ = head_shape(subject)
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[name] = output

        return hook

    with open_bench(subject, 0) as bench, torch.no_grad():
        for name, module in bench.model.named_modules():
            if next(module.children(), None) is None and next(module.parameters(), None) is not None:
                module.register_forward_hook(remember(name))
        watched_loss(subject, bench.model.eval(), bench.batch(0))
    for name, output in reversed(outputs.items()):
        if isinstance(output, Tensor) and output.shape == given.shape and torch.equal(output, given):
            return name
    raise ValueError(f"{subject.name} has no module of its own in front of its head; nothing to take away")


def without_final_norm(subject: Subject) -> Subject:
    """The subject with the module in front of its head replaced by the identity."""
    name = norm_before_head(subject)
    return rebuilt(subject, lambda model: model.set_submodule(name, nn.Identity()))
