"""What a stranger's forward pass does, seen from outside: the calls of the loss, of softmax and of the head.

Torch offers a mode in which every call of a torch function passes through us first; nothing is patched, and outside
the ``with`` block nothing is different.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diagnostics.subject import Batch, Subject

LOSSES = {F.cross_entropy: "cross_entropy", F.nll_loss: "nll_loss"}
SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)
PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass(frozen=True, kw_only=True)
class LossCall:
    """One call of a classification loss: what it was given.

    ``scores`` has the classes on its last axis, one row per target; ``targets`` is flat, with the ignored ones left out
    of both.
    """

    function: str
    scores: Float[Tensor, "targets classes"]
    targets: Int[Tensor, " targets"]
    label_smoothing: float
    reduction: str


class TorchCalls(TorchFunctionMode):
    """Every call of a torch function passes through ``call`` while this is active."""

    @no_type_check  # reached by every torch function, and the shape checks of the test run call some themselves
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Torch's own entry; subclasses change ``call``."""
        return self.call(func, args, kwargs or {})

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen."""
        return func(*args, **kwargs)


@dataclass
class ForwardWatch(TorchCalls):
    """Records the calls that matter while it is active.

    ``losses``: calls of cross_entropy and nll_loss. ``softmaxes``: (input, output, axis) of each softmax.
    ``products``: (input, output) of each matrix product or linear map.
    """

    losses: list[LossCall] = field(default_factory=list)
    softmaxes: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    products: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and note what it was given and what it gave."""
        result = func(*args, **kwargs)
        if func in LOSSES:
            self.losses.append(loss_call(LOSSES[func], args, kwargs))
        elif func in SOFTMAXES:
            self.softmaxes.append((args[0], result, softmax_axis(args, kwargs)))
        elif func in PRODUCTS:
            self.products.append((args[0], result))
        return result


def softmax_axis(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The axis that a softmax call normalises over, counted from the end (-1 is the last)."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return -1 if axis is None else axis - args[0].dim() if axis >= 0 else axis


def loss_call(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LossCall:
    """A call of cross_entropy or nll_loss, its scores as rows and the ignored targets left out."""
    names = (
        "input",
        "target",
        "weight",
        "size_average",
        "ignore_index",
        "reduce",
        "reduction",
        "label_smoothing",
    )
    given = dict(zip(names, args, strict=False)) | kwargs
    scores, targets = given["input"].detach(), given["target"].detach()
    if targets.is_floating_point():
        targets = targets.argmax(dim=1 if scores.dim() > 1 else 0)
    rows = scores.movedim(1, -1).reshape(-1, scores.shape[1]) if scores.dim() > 1 else scores[None]
    flat = targets.reshape(-1)
    kept = flat != given.get("ignore_index", -100)
    return LossCall(
        function=function,
        scores=rows[kept],
        targets=flat[kept],
        label_smoothing=given.get("label_smoothing", 0.0),
        reduction=given.get("reduction", "mean"),
    )


def watched_loss(subject: Subject, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], ForwardWatch]:
    """The subject's loss on a batch, and what was seen while it was computed."""
    with ForwardWatch() as watch:
        loss = subject.loss(model, batch)
    return loss, watch


def head_input(watch: ForwardWatch, classes: int) -> Shaped[Tensor, "..."] | None:
    """What goes into the last product that gives ``classes`` numbers per position: the head's input."""
    inputs = [given for given, result in watch.products if result.dim() > 1 and result.shape[-1] == classes]
    return inputs[-1] if inputs else None
