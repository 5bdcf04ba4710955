"""Between which numbers the logits stay, whatever goes in: the head's result is made louder and louder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import tensors_in
from diagnostics.probe import Probe
from diagnostics.watch import PRODUCTS, ForwardWatch, LossCall, TorchCalls, storage, watched_loss

HEADS = (*PRODUCTS, torch.bmm, Tensor.bmm, torch.addmm, torch.einsum, F.conv1d, F.conv2d)
GAINS = (1.0, 1e3, 1e6)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The scores that the loss gets where the head's result is multiplied by ``gain``.

    Args:
        smallest / largest: entries.
        zeros: share of entries that are exactly zero.
        sum_error: largest distance of a row's sum from 1.
        slope: largest absolute gradient, over all parameters, of the distance between largest and smallest entry, where
            that distance no longer grows; 0 elsewhere.
    """

    gain: float
    smallest: float
    largest: float
    zeros: float
    sum_error: float
    slope: float


@dataclass(frozen=True, kw_only=True)
class LogitRange:
    """The ranges of the scores, for the head's result as it is and made louder.

    Args:
        function: "cross_entropy" or "nll_loss"; None where neither was seen.
        classes: width of a row.
        head: name of the head's weight; None where no product with a weight gives as many numbers as classes.
        negative: share of negative numbers in what the head itself gives.
        ranges: one for each gain; empty without a head.
    """

    function: str | None
    classes: int = 0
    head: str | None = None
    negative: float = 0.0
    ranges: tuple[Range, ...] = ()

    @property
    def missing(self) -> str | None:
        """Why there are no ranges; None where there are."""
        if self.function is None:
            return "no call of cross_entropy or nll_loss was seen while the loss was computed"
        if not self.ranges:
            return "no product with a weight gives as many numbers as there are classes; no head is known"
        return None


class HeadGain(TorchCalls):
    """While active, products with the head's weight come out ``gain`` times larger."""

    def __init__(self, weight: Tensor, gain: float) -> None:
        super().__init__()
        self.address, self.gain = storage(weight), gain

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Multiply the head's result."""
        result = func(*args, **kwargs)
        if func in HEADS and uses(self.address, args, kwargs):
            return result * self.gain
        return result


def uses(address: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a tensor among the arguments is a view of the storage at this address."""
    return any(storage(each) == address for each in tensors_in((args, kwargs)))


class HeadWatch(ForwardWatch):
    """Also notes, of each product, the sizes of its result's axes but the first and the storages that went into it."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[tuple[int, ...], set[int], Tensor]] = []

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note products."""
        result = super().call(func, args, kwargs)
        if func in HEADS:
            self.made.append((tuple(result.shape[1:]), {storage(each) for each in tensors_in((args, kwargs))}, result))
        return result

    def head(self, model: nn.Module, classes: int) -> tuple[str, float] | None:
        """Name of the weight in the last product that gives as many numbers as there are classes, and the share of
        negative ones among them; None without such a product."""
        # a bias is no head: it has one axis
        weights = {storage(p): name for name, p in model.named_parameters() if p.dim() > 1}
        for sizes, used, result in reversed(self.made):
            names = [weights[address] for address in used if address in weights]
            if classes in sizes and names:
                return names[-1], float((result < 0).float().mean())
        return None


def range_of(call: LossCall, gain: float, slope: float = 0.0) -> Range | None:
    """The range of the scores of a loss call; None where they are not known."""
    if call.given is None or not call.given.numel():
        return None
    scores = call.given.detach()
    return Range(
        gain=gain,
        smallest=float(scores.min()),
        largest=float(scores.max()),
        zeros=float((scores == 0).float().mean()),
        sum_error=float((call.scores.sum(-1) - 1).abs().max()) if len(call.scores) else 0.0,
        slope=slope,
    )


def range_at(bench: Bench, model: nn.Module, head: str, gain: float, *, ends: bool = False) -> Range | None:
    """The scores' range at this gain; with the slope of its ends if asked for."""
    with torch.set_grad_enabled(ends), HeadGain(model.get_parameter(head), gain):
        call = watched_loss(bench.subject, model, bench.batch(0))[1].losses[-1]
    slope = 0.0
    if ends and call.given is not None and call.given.requires_grad:
        parameters = [p for p in model.parameters() if p.requires_grad]
        width = call.given.max() - call.given.min()
        gradients = torch.autograd.grad(width, parameters, allow_unused=True)
        slope = max((float(g.abs().max()) for g in gradients if g is not None and g.numel()), default=0.0)
    return range_of(call, gain, slope)


def holds_still(ranges: list[Range | None]) -> bool:
    """Whether the two loudest are the same, within a few percent."""
    louder, loudest = ranges[-2:]
    if louder is None or loudest is None:
        return False
    width = louder.largest - louder.smallest
    return abs(loudest.largest - loudest.smallest - width) <= 0.05 * width


def logit_range(bench: Bench) -> LogitRange:
    """The ranges of the fresh model's scores, or of the standing one's where the fresh head gives zeros alone."""
    for model in (bench.model.eval(), bench.standing_model().eval()):
        with torch.no_grad(), HeadWatch() as watch:
            bench.loss(model)
        calls = watch.losses or watch.written
        if not calls:
            return LogitRange(function=None)
        call = calls[-1]
        classes = call.scores.shape[1]
        found, plain = watch.head(model, classes), range_of(call, GAINS[0])
        if found is None or plain is None or plain.largest <= plain.smallest:
            continue
        head, negative = found
        ranges = [plain, *(range_at(bench, model, head, gain) for gain in GAINS[1:])]
        if holds_still(ranges):  # rarely, so only then does a backward pass pay
            ranges[-1] = range_at(bench, model, head, GAINS[-1], ends=True)
        known = tuple(each for each in ranges if each is not None)
        if len(known) == len(GAINS):
            return LogitRange(function=call.function, classes=classes, head=head, negative=negative, ranges=known)
    return LogitRange(function=call.function, classes=classes)


LOGIT_RANGE = Probe(
    name="logit-range",
    question="Between which numbers do the logits stay, whatever goes in?",
    measure=logit_range,
)
