"""How predictions meet their targets where the loss compares numbers: shapes that broadcast, ranges that miss."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.logit_range import HEADS, HeadGain
from diagnostics.probes.score_origin import seen_calls
from diagnostics.watch import ForwardWatch, TorchCalls, storage

DIFFERENCES = (torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__)
DISTANCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
GAINS = (1e3, 1e6)


@dataclass(frozen=True, kw_only=True)
class RegressionPairs:
    """Predictions and targets of one batch.

    Args:
        function: "mse_loss", ... or "a difference" where two shapes that broadcast are subtracted outside the model;
            None where neither was seen.
        given / wanted: shapes of predictions and of targets.
        compared: how many pairs the loss is taken over.
        smallest_target / largest_target: of the first batches.
        lowest / highest: the range of the predictions, however loud the head is made, in either direction; infinite
            where nothing holds them, None where no head was found.
        head: name of the head's weight.
        missed: share of the targets outside that range.
    """

    function: str | None
    given: tuple[int, ...] = ()
    wanted: tuple[int, ...] = ()
    compared: int = 0
    smallest_target: float = 0.0
    largest_target: float = 0.0
    lowest: float | None = None
    highest: float | None = None
    head: str | None = None
    missed: float = 0.0


class DifferenceWatch(TorchCalls):
    """Notes subtractions of tensors whose shapes broadcast to more numbers than either has."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor]] = []

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note such a subtraction: [N, 1] and [N], one of which leads back to weights."""
        result = func(*args, **kwargs)
        if func in DIFFERENCES and len(args) > 1 and all(isinstance(each, Tensor) for each in args[:2]):
            one, other = sorted(args[:2], key=lambda each: not each.requires_grad)
            if one.requires_grad and not other.requires_grad and crosses(one, other):
                self.pairs.append((one, other))
        return result


def crosses(one: Shaped[Tensor, "..."], other: Shaped[Tensor, "..."]) -> bool:
    """Whether as many numbers on both sides broadcast to all pairs of them."""
    if one.dim() == other.dim() or one.numel() != other.numel() or one.numel() < 2:
        return False
    return math.prod(torch.broadcast_shapes(one.shape, other.shape)) > one.numel()


def regression_pairs(bench: Bench) -> RegressionPairs:
    """Shapes and ranges of the fresh model's predictions on the first batch."""
    model = bench.model.eval()
    found = pair(bench, model)
    if found is None:
        return RegressionPairs(function=None)
    function, given, wanted = found
    targets = wanted.detach().double()
    head = head_of(bench, model)
    low, high = (None, None) if head is None else reach(bench, model, head)
    outside = torch.zeros_like(targets, dtype=torch.bool)
    if low is not None and high is not None:
        outside = (targets < low) | (targets > high)
    try:
        compared = math.prod(torch.broadcast_shapes(given.shape, wanted.shape))
    except RuntimeError:
        compared = given.numel()
    return RegressionPairs(
        function=function,
        given=tuple(given.shape),
        wanted=tuple(wanted.shape),
        compared=compared,
        smallest_target=float(targets.min()),
        largest_target=float(targets.max()),
        lowest=low,
        highest=high,
        head=head,
        missed=float(outside.double().mean()),
    )


def pair(bench: Bench, model: nn.Module) -> tuple[str, Tensor, Tensor] | None:
    """Predictions and targets of the last comparison of numbers; None without one."""
    with (
        warnings.catch_warnings(),
        seen_calls(model) as calls,
        DifferenceWatch() as differences,
        ForwardWatch() as watch,
    ):
        warnings.simplefilter("ignore")  # torch warns of shapes that broadcast
        bench.loss(model)
    distances = [call for call in watch.regressions if call.function in DISTANCES]
    if distances:
        last = distances[-1]
        one, other = sorted((last.given, last.wanted), key=lambda each: not each.requires_grad)
        return (last.function, one, other) if other.numel() else None
    outputs = {each.numel() for one in calls.outputs for each in one}
    written = [(one, other) for one, other in differences.pairs if one.numel() in outputs]
    return ("a difference", *written[-1]) if written else None


class LastProduct(TorchCalls):
    """Notes the storages of the tensors in the last product with a weight."""

    def __init__(self, weights: dict[int, str]) -> None:
        super().__init__()
        self.weights = weights
        self.last: str | None = None

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note products with weights."""
        if func in HEADS:
            used = [self.weights[storage(each)] for each in args if storage(each) in self.weights]
            self.last = used[-1] if used else self.last
        return func(*args, **kwargs)


def head_of(bench: Bench, model: nn.Module) -> str | None:
    """Name of the weight in the last product of the forward pass."""
    weights = {storage(p): name for name, p in model.named_parameters() if p.dim() > 1}
    with warnings.catch_warnings(), torch.no_grad(), LastProduct(weights) as watch:
        warnings.simplefilter("ignore")
        bench.loss(model)
    return watch.last


def reach(bench: Bench, model: nn.Module, head: str) -> tuple[float, float]:
    """The range of the predictions where the head is made louder, in either direction; infinite if it grows on."""
    ends, seen = [], list[Tensor]()
    for gain in (*GAINS, *(-gain for gain in GAINS)):
        with HeadGain(model.get_parameter(head), gain):
            found = pair(bench, model)
        if found is None:
            return -math.inf, math.inf
        seen.append(found[1].detach())
        ends.append((float(seen[-1].min()), float(seen[-1].max())))
    if torch.equal(seen[0], seen[2]):  # the sign makes no difference: this product does not lead to the predictions
        return -math.inf, math.inf
    (low, high), (lower, higher) = ((min(ends[i][0], ends[i + 2][0]), max(ends[i][1], ends[i + 2][1])) for i in (0, 1))
    still = 1e-3 * max(1.0, abs(low)), 1e-3 * max(1.0, abs(high))
    return (lower if abs(lower - low) < still[0] else -math.inf, higher if abs(higher - high) < still[1] else math.inf)


REGRESSION_PAIRS = Probe(
    name="regression-pairs",
    question="Do predictions and targets meet one to one, and can predictions reach the targets?",
    measure=regression_pairs,
)
