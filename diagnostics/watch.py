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
LOSS_ARGUMENTS = (
    "input",
    "target",
    "weight",
    "size_average",
    "ignore_index",
    "reduce",
    "reduction",
    "label_smoothing",
)
"""Of cross_entropy in this order; nll_loss has all but the last."""
SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)
LOG_SOFTMAXES = (F.log_softmax, torch.log_softmax, Tensor.log_softmax)
LOGARITHMS = (torch.log, Tensor.log)
NORMALISERS = (torch.logsumexp, Tensor.logsumexp)
GATHERS = (torch.gather, Tensor.gather, torch.take_along_dim, Tensor.take_along_dim)
NUDGES = (torch.add, Tensor.add, Tensor.__add__, torch.clamp, Tensor.clamp, torch.clamp_min, Tensor.clamp_min)
MULTIPLICATIONS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)
REGRESSIONS = {
    F.mse_loss: "mse_loss",
    F.l1_loss: "l1_loss",
    F.smooth_l1_loss: "smooth_l1_loss",
    F.huber_loss: "huber_loss",
    F.binary_cross_entropy: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
}
PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__)


@dataclass(frozen=True, kw_only=True)
class LossCall:
    """One call of a classification loss: what it was given.

    ``scores`` has the classes on its last axis, one row per target; ``targets`` is flat, with the ignored ones left out
    of both. ``given`` and ``wanted`` are the arguments as they came, the former with its graph; None where the call
    was not seen, as in one made up for a test. ``by_hand``: written out with log-softmax and a choice of entries.
    """

    function: str
    scores: Float[Tensor, "targets classes"]
    targets: Int[Tensor, " targets"]
    label_smoothing: float
    reduction: str
    given: Shaped[Tensor, "..."] | None = None
    wanted: Shaped[Tensor, "..."] | None = None
    ignore_index: int = -100
    by_hand: bool = False


@dataclass(frozen=True, kw_only=True)
class RegressionCall:
    """One call of a loss that compares number with number; both arguments as they came, with their graphs."""

    function: str
    given: Shaped[Tensor, "..."]
    wanted: Shaped[Tensor, "..."]


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
    ``products``: (input, output) of each matrix product or linear map. ``written``: cross-entropies written out by
    hand, which ``watched_loss`` takes for the losses where no function was called. ``regressions``: calls of mse_loss
    and its kin. ``log_softmaxes``: (input, output, axis). ``blind``: products with weights that want a gradient, made
    while gradients were switched off.
    """

    losses: list[LossCall] = field(default_factory=list)
    softmaxes: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    products: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    written: list[LossCall] = field(default_factory=list)
    regressions: list[RegressionCall] = field(default_factory=list)
    log_softmaxes: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    blind: int = 0
    _nudged: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    _chosen: dict[int, tuple[Any, LossCall]] = field(default_factory=dict)

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
            self.blind += not torch.is_grad_enabled() and any(isinstance(a, nn.Parameter) for a in args[:2])
        elif func in LOG_SOFTMAXES:
            self.log_softmaxes.append((args[0], result, softmax_axis(args, kwargs)))
        elif func in REGRESSIONS:
            given = dict(zip(("input", "target"), args, strict=False)) | kwargs
            self.regressions.append(
                RegressionCall(function=REGRESSIONS[func], given=given["input"], wanted=given["target"])
            )
        else:
            self._by_hand(func, args, kwargs, result)
        return result

    def _by_hand(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note a step of a cross-entropy that is written out: log-softmax in any spelling, the choice of entries."""
        if func in LOGARITHMS:
            found = origin(self.softmaxes + self._nudged, args[0])
            if found is not None:
                self.log_softmaxes.append((found, result, -1))
            elif storage(args[0]) in self._chosen:
                self.written.append(self._chosen[storage(args[0])][1])
        elif func in NUDGES:
            self._nudge(args[0], result)
        elif func in NORMALISERS:
            axis = softmax_axis(args, kwargs)
            self.log_softmaxes.append((args[0], args[0], axis[0] if isinstance(axis, tuple | list) else axis))
        elif func in GATHERS or func is Tensor.__getitem__:
            self._choice(args[0], chosen_index(func, args, kwargs), result)
        elif func in MULTIPLICATIONS:
            self._one_hot(args)

    def _nudge(self, given: Any, result: Any) -> None:
        """Probabilities were kept away from zero, as one does before a logarithm."""
        if not isinstance(given, Tensor) or not self.softmaxes:
            return
        found = origin(self.softmaxes, given)
        if found is not None and isinstance(result, Tensor) and result.shape == given.shape:
            self._nudged.append((found, result, -1))
        elif storage(given) in self._chosen:
            self._chosen[storage(result)] = (result, self._chosen[storage(given)][1])

    def _choice(self, chosen_from: Tensor, index: Int[Tensor, "..."] | None, result: Any) -> None:
        """One entry per row was chosen by ``index`` from log-probabilities, or from probabilities."""
        if index is None:
            return
        scores = origin(self.log_softmaxes, chosen_from)
        if scores is not None and index.numel() * scores.shape[-1] == scores.numel():
            self.written.append(written_call(scores, index))
            return
        scores = origin(self.softmaxes + self._nudged, chosen_from)
        if scores is not None and index.numel() * scores.shape[-1] == scores.numel():
            self._chosen[storage(result)] = (result, written_call(scores, index))

    def _one_hot(self, factors: tuple[Any, ...]) -> None:
        """Log-probabilities were multiplied by rows that sum to one: one-hot or soft targets."""
        tensors = [each for each in factors if isinstance(each, Tensor)]
        if len(tensors) != 2 or tensors[0].shape != tensors[1].shape or tensors[0].dim() < 2:
            return
        for one, other in (tensors, tensors[::-1]):
            scores = origin(self.log_softmaxes, one)
            if scores is None or other.requires_grad:
                continue
            rows = other.detach()
            if rows.min() >= 0 and bool(((rows.sum(-1) - 1).abs() < 1e-3).all()):
                self.written.append(written_call(scores, rows.argmax(-1), smoothing_of(rows)))
                return


def storage(tensor: Any) -> int:
    """The address of a tensor's storage, shared by its views; 0 for anything else."""
    return tensor.untyped_storage().data_ptr() if isinstance(tensor, Tensor) else 0


def origin(normalised: list[tuple[Tensor, Tensor, int]], tensor: Any) -> Shaped[Tensor, "..."] | None:
    """What went into the softmax over the last axis whose result this is (or a view or slice of it); None: none did.

    The very tensor, with its graph, unless this is a slice.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        return None
    for given, after, axis in reversed(normalised):
        same = after is tensor or storage(after) == storage(tensor)
        if same and axis == -1 and tensor.dim() and tensor.shape[-1] == given.shape[-1]:
            if given.numel() == tensor.numel() and tensor.is_contiguous() and given.is_contiguous():
                return given
            return given.contiguous().as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    return None


def chosen_index(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Int[Tensor, "..."] | None:
    """The index of a gather over the last axis, or of ``scores[rows, targets]``; None for any other choice."""
    if func is Tensor.__getitem__:
        key = args[1]
        whole = isinstance(key, tuple) and len(key) == args[0].dim() >= 2
        if not whole or not all(isinstance(each, Tensor) and each.dtype == torch.int64 for each in key):
            return None
        return torch.broadcast_tensors(*key)[-1]
    names = ("dim", "index") if func in GATHERS[:2] else ("indices", "dim")
    given = dict(zip(names, args[1:], strict=False)) | kwargs
    index, dim = given.get("index", given.get("indices")), given.get("dim")
    last = dim is not None and isinstance(dim, int) and dim in (-1, args[0].dim() - 1)
    return index if last and isinstance(index, Tensor) and index.dim() and index.shape[-1] == 1 else None


def smoothing_of(rows: Float[Tensor, "*rows classes"]) -> float:
    """The label smoothing that rows of target probabilities hold; 0 where what is left over is not spread evenly."""
    classes = rows.shape[-1]
    rest = (1 - rows.max(-1).values) / max(1, classes - 1)
    even = (rows.min(-1).values - rest).abs().max() < 1e-6
    return float(rest.mean()) * classes if bool(even) and float(rest.max() - rest.min()) < 1e-6 else 0.0


def written_call(
    scores: Float[Tensor, "*rows classes"], index: Int[Tensor, "..."], label_smoothing: float = 0.0
) -> LossCall:
    """The cross-entropy that a choice of entries from log-probabilities amounts to."""
    rows, flat = scores.reshape(-1, scores.shape[-1]), index.detach().reshape(-1)
    kept = (flat >= 0) & (flat < scores.shape[-1])
    return LossCall(
        function="cross_entropy",
        scores=rows.detach()[kept],
        targets=flat[kept],
        label_smoothing=label_smoothing,
        reduction="mean",
        given=scores,
        wanted=flat,
        by_hand=True,
    )


def softmax_axis(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The axis that a softmax call normalises over, counted from the end (-1 is the last)."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return -1 if axis is None else axis - args[0].dim() if axis >= 0 else axis


def loss_call(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LossCall:
    """A call of cross_entropy or nll_loss, its scores as rows and the ignored targets left out."""
    given = dict(zip(LOSS_ARGUMENTS, args, strict=False)) | kwargs
    scores, targets = given["input"].detach(), given["target"].detach()
    smoothing = given.get("label_smoothing", 0.0)
    if targets.is_floating_point():
        smoothing = smoothing or smoothing_of(targets.movedim(1, -1) if targets.dim() > 1 else targets)
        targets = targets.argmax(dim=1 if scores.dim() > 1 else 0)
    rows = scores.movedim(1, -1).reshape(-1, scores.shape[1]) if scores.dim() > 1 else scores[None]
    flat = targets.reshape(-1)
    kept = flat != given.get("ignore_index", -100)
    return LossCall(
        function=function,
        scores=rows[kept],
        targets=flat[kept],
        label_smoothing=smoothing,
        reduction=given.get("reduction", "mean"),
        given=given["input"],
        wanted=given["target"],
        ignore_index=given.get("ignore_index", -100),
    )


def watched_loss(subject: Subject, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], ForwardWatch]:
    """The subject's loss on a batch, and what was seen while it was computed."""
    with ForwardWatch() as watch:
        loss = subject.loss(model, batch)
    if not watch.losses:
        watch.losses.extend(watch.written)
    return loss, watch


def head_input(watch: ForwardWatch, classes: int) -> Shaped[Tensor, "..."] | None:
    """What goes into the last product that gives ``classes`` numbers per position: the head's input."""
    inputs = [given for given, result in watch.products if result.dim() > 1 and result.shape[-1] == classes]
    return inputs[-1] if inputs else None
