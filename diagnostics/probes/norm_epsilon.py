"""How much of unit variance each normalisation leaves, because of the epsilon that it divides with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls

EPSILON_AT = {F.layer_norm: 4, F.rms_norm: 3, F.batch_norm: 7, F.group_norm: 4}
DEFAULT = 1e-5


@dataclass(frozen=True, kw_only=True)
class NormEpsilon:
    """Torch's own normalisations of a fresh model on the first batch.

    Args:
        calls: how many there were.
        epsilon: of the one that leaves least.
        variance: of what that one is given, over the axes that it normalises (the mean square, where it subtracts
            nothing).
        left: root mean square that it gives, scale and shift aside: 1 for a negligible epsilon.
    """

    calls: int
    epsilon: float | None = None
    variance: float | None = None
    left: float | None = None


class NormWatch(TorchCalls):
    """Notes (epsilon, variance of the input) of every call of a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float]] = []

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the call and let it happen."""
        if func in EPSILON_AT and args:
            at = EPSILON_AT[func]
            epsilon = kwargs.get("eps", args[at] if len(args) > at else DEFAULT)
            if epsilon is not None:
                self.seen.append((float(epsilon), variance(func, args)))
        return func(*args, **kwargs)


def variance(func: Callable[..., Any], args: tuple[Any, ...]) -> float:
    """What the normalisation divides by, before the epsilon, on average."""
    given: Float[Tensor, ...] = args[0].detach().float()
    if func is F.rms_norm:
        return float(given.square().mean())
    if func is F.batch_norm:
        return float(given.movedim(1, 0).flatten(1).var(1, unbiased=False).mean())
    if func is F.group_norm:
        return float(given.reshape(len(given), args[1], -1).var(-1, unbiased=False).mean())
    axes = tuple(range(-len(args[1]), 0))
    return float(given.var(axes, unbiased=False).mean())


def norm_epsilon(bench: Bench) -> NormEpsilon:
    """The normalisation that leaves least of its input's variance."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it normalises where no one sees it
    try:
        with torch.no_grad(), NormWatch() as watch:
            bench.loss(bench.model.train())
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    if not watch.seen:
        return NormEpsilon(calls=0)
    epsilon, size = min(watch.seen, key=lambda pair: pair[1] / (pair[0] + pair[1] + 1e-30))
    left = (size / (size + epsilon)) ** 0.5 if size + epsilon > 0 else 1.0
    return NormEpsilon(calls=len(watch.seen), epsilon=epsilon, variance=size, left=left)


NORM_EPSILON = Probe(
    name="norm-epsilon",
    question="How much of unit variance does each normalisation's epsilon leave?",
    measure=norm_epsilon,
)
