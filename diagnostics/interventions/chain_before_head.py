"""Put a chain of fixed layers in front of the last matrix: something that makes gradients vanish or explode."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diagnostics.intervention import surrounded
from diagnostics.interventions.final_norm import NormalisedHead, head_shape
from diagnostics.subject import Subject
from diagnostics.watch import PRODUCTS, TorchCalls

LAYERS = 12


class ChainBeforeHead(TorchCalls):
    """While active, the head's input passes through LAYERS fixed matrices, each followed by an activation."""

    def __init__(self, width: int, classes: int, size: float | None, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.shape, self.activation = NormalisedHead(width, classes), activation
        generator = torch.Generator().manual_seed(width)
        drawn = [torch.randn(width, width, generator=generator) / width**0.5 for _ in range(LAYERS)]
        self.matrices = [torch.eye(width) if size is None else size * matrix for matrix in drawn]

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the head's input pass through the chain first."""
        if func in PRODUCTS and len(args) > 1 and self.shape.is_head(func, args[1]):
            args = (self.through(args[0]), *args[1:])
        return func(*args, **kwargs)

    def through(self, given: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """The chain's output."""
        for matrix in self.matrices:
            given = self.activation(torch.matmul(given, matrix.to(given)))
        return given


def chain_before_head(subject: Subject, size: float | None, activation: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with such a chain; ``size`` is what a matrix multiplies a root mean square by (None: identities).

    Raises:
        ValueError: it has no matrix that gives the scores of a cross-entropy.
    """
    given, classes = head_shape(subject)
    width = given.shape[-1]
    return surrounded(subject, lambda model, batch: ChainBeforeHead(width, classes, size, activation))
