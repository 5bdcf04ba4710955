"""Between which numbers the logits stay, whatever goes in: the head's result is made louder and louder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import tensors_in
from diagnostics.probe import Probe
from diagnostics.watch import PRODUCTS, TorchCalls, storage, watched_loss

HEADS = (*PRODUCTS, torch.bmm, Tensor.bmm, torch.addmm, torch.einsum, F.conv1d, F.conv2d)
GAINS = (1.0, 1e3, 1e6)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The scores that the loss gets where the head's result is multiplied by ``gain``.

    Args:
        smallest / largest: entries.
        zeros: share of entries that are exactly zero.
        sum_error: largest distance of a row's sum from 1.
        slope: largest absolute gradient, over all parameters, of the distance between largest and smallest entry.
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


class HeadGain(TorchCalls):
    """Products with the head's weight come out ``gain`` times larger; ``negative`` is their share before."""

    def __init__(self, weight: Tensor, gain: float) -> None:
        super().__init__()
        self.address, self.gain, self.negative = storage(weight), gain, 0.0

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Multiply the head's result."""
        result = func(*args, **kwargs)
        if func in HEADS and uses(self.address, args, kwargs):
            self.negative = float((result < 0).float().mean())
            return result * self.gain
        return result


def uses(address: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a tensor among the arguments is a view of the storage at this address."""
    return any(storage(each) == address for each in tensors_in((args, kwargs)))


class HeadWatch(TorchCalls):
    """Notes the storages of the tensors in each product that gives ``classes`` numbers per position."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.addresses: list[set[int]] = []

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note products."""
        result = func(*args, **kwargs)
        if func in HEADS and self.classes in tuple(result.shape[1:]):
            self.addresses.append({storage(each) for each in tensors_in((args, kwargs))})
        return result


def head_weight(bench: Bench, model: nn.Module, classes: int) -> str | None:
    """Name of the weight in the last product that gives as many numbers as there are classes; None without one."""
    with torch.no_grad(), HeadWatch(classes) as watch:
        bench.loss(model)
    # a bias is no head: it has one axis
    weights = {storage(p): name for name, p in model.named_parameters() if p.dim() > 1}
    found = [weights[address] for used in watch.addresses for address in used if address in weights]
    return found[-1] if found else None


def range_at(bench: Bench, model: nn.Module, head: str, gain: float) -> tuple[Range, float] | None:
    """The scores' range at this gain, and the share of negative numbers in the head's own result."""
    with HeadGain(model.get_parameter(head), gain) as mode:
        _, watch = watched_loss(bench.subject, model, bench.batch(0))
    call = watch.losses[-1]
    scores: Shaped[Tensor, "..."] | None = call.given
    if scores is None or not scores.numel():
        return None
    plain = scores.detach()
    width = scores.max() - scores.min()
    slope = 0.0
    if width.requires_grad:
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(width, parameters, allow_unused=True)
        slope = max((float(g.abs().max()) for g in gradients if g is not None and g.numel()), default=0.0)
    found = Range(
        gain=gain,
        smallest=float(plain.min()),
        largest=float(plain.max()),
        zeros=float((plain == 0).float().mean()),
        sum_error=float((call.scores.sum(-1) - 1).abs().max()) if len(call.scores) else 0.0,
        slope=slope,
    )
    return found, mode.negative


def logit_range(bench: Bench) -> LogitRange:
    """The ranges of the fresh model's scores, or of the standing one's where the fresh head gives zeros alone."""
    for model in (bench.model.eval(), bench.standing_model().eval()):
        with torch.no_grad():
            _, watch = watched_loss(bench.subject, model, bench.batch(0))
        if not watch.losses:
            return LogitRange(function=None)
        call = watch.losses[-1]
        classes = call.scores.shape[1]
        head = head_weight(bench, model, classes)
        if head is None:
            continue
        found = [range_at(bench, model, head, gain) for gain in GAINS]
        ranges = tuple(each[0] for each in found if each is not None)
        if len(ranges) == len(GAINS) and ranges[0].largest > ranges[0].smallest:
            negative = next((each[1] for each in found if each is not None), 0.0)
            return LogitRange(function=call.function, classes=classes, head=head, negative=negative, ranges=ranges)
    return LogitRange(function=call.function, classes=classes)


LOGIT_RANGE = Probe(
    name="logit-range",
    question="Between which numbers do the logits stay, whatever goes in?",
    measure=logit_range,
)
