"""Cut rows into heads, and join heads to rows, without mixing positions."""

from collections.abc import Callable
from typing import Any, no_type_check

import torch
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls

LAYOUTS = (Tensor.view, Tensor.reshape, torch.reshape)


class TransposedHeads(TorchCalls):
    """While active, a view that cuts (time, features) into (heads, time, d_k), or joins them, transposes as it should.

    Told by its sizes alone, where heads and positions differ in number. ``changed`` counts the views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changed = 0

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Lay out anew what a view would mix."""
        if func not in LAYOUTS or not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        laid = rightly_laid_out(args[0], tuple(result.shape))
        self.changed += laid is not None
        return result if laid is None else laid


@no_type_check  # no shape holds for every tensor that is viewed
def rightly_laid_out(given: Tensor, wanted: tuple[int, ...]) -> Tensor | None:
    """The tensor in the wanted shape with its positions kept apart; None where a plain view keeps them."""
    if given.dim() == 3 and len(wanted) == 4:
        batch, time, features = given.shape
        heads = wanted[1]
        if wanted == (batch, heads, time, features // max(heads, 1)) and heads not in (1, time) and time > 1:
            return given.reshape(batch, time, heads, -1).transpose(1, 2)
    if given.dim() == 4 and given.shape[1] != given.shape[2] and 1 not in given.shape[1:3]:
        batch, first, second, width = given.shape
        if wanted == (batch, second, first * width):
            return given.transpose(1, 2).reshape(wanted)
        if wanted == (batch, second, first, width):
            return given.transpose(1, 2)
    return None


def split_heads(subject: Subject) -> Subject:
    """The subject whose heads hold whole positions.

    Raises:
        ValueError: none of its views cuts or joins heads.
    """
    with open_bench(subject, 0) as bench, torch.no_grad(), TransposedHeads() as mode:
        bench.loss()
    if not mode.changed:
        raise ValueError(f"no view of {subject.name} cuts rows into heads, or joins them, without a transpose")
    return surrounded(subject, lambda model, batch: TransposedHeads())


SPLIT_HEADS = Intervention(
    name="split-heads", does="transpose where a view cuts positions into heads or joins them", apply=split_heads
)
