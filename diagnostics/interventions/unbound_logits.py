"""Leave out what squeezes or cuts the head's result before it reaches the loss."""

from collections.abc import Callable
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.logit_range import HEADS, LOGIT_RANGE, uses
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls, storage

SQUEEZING = (
    *(torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.tanh, Tensor.tanh, F.tanh, F.hardtanh, F.hardsigmoid, F.softsign),
    *(torch.clamp, Tensor.clamp, Tensor.clamp_, torch.clip, Tensor.clip, torch.clamp_min, Tensor.clamp_min),
    *(
        torch.sin,
        Tensor.sin,
        torch.atan,
        Tensor.atan,
        torch.erf,
        F.relu6,
        F.relu,
        torch.relu,
        Tensor.relu,
        Tensor.relu_,
    ),
    *(F.gelu, F.silu, F.elu, F.softplus, F.leaky_relu, torch.abs, Tensor.abs, torch.exp, Tensor.exp, torch.square),
)
ELEMENTWISE = (
    *(torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.div, Tensor.div, Tensor.__truediv__),
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__sub__, torch.sub, Tensor.sub),
    *(Tensor.float, Tensor.to, Tensor.contiguous, Tensor.transpose, Tensor.permute, Tensor.reshape, Tensor.__getitem__),
)


class Unbounded(TorchCalls):
    """While active, functions that squeeze numbers give back what they are given, if that is the head's result."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.address = storage(weight)
        self.results: dict[int, Tensor] = {}  # by storage; held, so that no address is used twice

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Skip what squeezes the head's result; follow it through what does not."""
        given = args[0] if args else kwargs.get("input")
        of_head = isinstance(given, Tensor) and storage(given) in self.results
        if func in SQUEEZING and of_head:
            return given
        result = func(*args, **kwargs)
        if (func in HEADS and uses(self.address, args, kwargs)) or (func in ELEMENTWISE and of_head):
            self.results[storage(result)] = result
        return result


def unbound_logits(subject: Subject) -> Subject:
    """The subject whose loss gets the head's result as it is.

    Raises:
        ValueError: no head was found.
    """
    with open_bench(subject, 0) as bench:
        head = LOGIT_RANGE.measure(bench).head
    if head is None:
        raise ValueError("no product with a weight gives as many numbers as there are classes; no head is known")

    return unbounded(subject, head)


def unbounded(subject: Subject, head: str) -> Subject:
    """The subject with every forward pass inside ``Unbounded``, told of the head by the name of its weight."""
    return surrounded(subject, lambda model, batch: Unbounded(model.get_parameter(head)))


UNBOUND_LOGITS = Intervention(
    name="unbound-logits", does="give the loss the head's result as it is", apply=unbound_logits
)
