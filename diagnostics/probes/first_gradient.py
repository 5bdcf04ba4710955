"""What becomes of the numbers and of the gradient on their way through a model, in one forward and backward pass."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.stream_scale import rms
from diagnostics.watch import TorchCalls

PRODUCTS = (
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.addmm, F.conv1d, F.conv2d,
    F.multi_head_attention_forward,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PassState:
    """One model on the first batch, in training mode.

    Args:
        loss: a finite number, NaN or infinity.
        first_nonfinite: the first module, innermost first, whose output holds a NaN, or infinity where the loss is not
            finite; None where there is none.
        nonfinite_gradients: parameters with a gradient that is not finite, by name.
    """

    loss: float
    first_nonfinite: str | None
    nonfinite_gradients: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FirstGradient:
    """Gradients of the loss along a fresh model's products, and what is not finite.

    Args:
        fresh: the freshly built model.
        standing: the model as it stands.
        products: matrix products and convolutions that a gradient came back to.
        early: the largest root mean square of the gradient with respect to an output among the first third of them.
        late: the median among the last sixth, of two at least.
    """

    fresh: PassState
    standing: PassState
    products: int
    early: float | None
    late: float | None


class GradientWatch(TorchCalls):
    """Hangs a hook on the output of every product: the size of the gradient that comes back to it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.sizes: dict[int, float] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and note its output."""
        result = func(*args, **kwargs)
        if func in PRODUCTS:
            output = result[0] if isinstance(result, tuple) else result
            index, self.count = self.count, self.count + 1
            if output.requires_grad:
                output.register_hook(lambda gradient: self.sizes.update({index: rms(gradient)}))
        return result

    def along(self) -> list[float]:
        """Sizes in the order of the calls."""
        return [self.sizes[index] for index in sorted(self.sizes)]


@contextmanager
def watched_outputs(model: nn.Module, seen: list[tuple[str, bool, bool]]) -> Iterator[None]:
    """Inside, (module, holds a NaN, holds infinity) is noted for every output that is not finite."""

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) and output else output
            if isinstance(output, Tensor) and output.is_floating_point() and not bool(torch.isfinite(output).all()):
                seen.append((name or type(module).__name__, bool(output.isnan().any()), bool(output.isinf().any())))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def one_pass(bench: Bench, model: nn.Module) -> tuple[PassState, list[float]]:
    """The state after one forward and backward pass, and the gradients along the products."""
    seen: list[tuple[str, bool, bool]] = []
    torch.manual_seed(bench.seed)
    model.train().zero_grad(set_to_none=True)
    with watched_outputs(model, seen), GradientWatch() as watch:
        loss = bench.loss(model)
    if loss.requires_grad:
        loss.backward()
    finite = bool(torch.isfinite(loss))
    wrong = [name for name, nan, infinite in seen if nan or (infinite and not finite)]
    gradients = [
        name for name, p in model.named_parameters() if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    state = PassState(
        loss=float(loss.detach()),
        first_nonfinite=wrong[0] if wrong else None,
        nonfinite_gradients=tuple(gradients),
    )
    return state, watch.along()


def first_gradient(bench: Bench) -> FirstGradient:
    """One pass of the freshly built model and one of the model as it stands."""
    fresh, sizes = one_pass(bench, bench.model)
    standing, _ = one_pass(bench, bench.standing_model())
    third = len(sizes) // 3
    return FirstGradient(
        fresh=fresh,
        standing=standing,
        products=len(sizes),
        early=max(sizes[:third]) if third else None,
        late=statistics.median(sizes[-max(2, len(sizes) // 6) :]) if third else None,
    )


FIRST_GRADIENT = Probe(
    name="first-gradient",
    question="Do numbers and gradients come through the model finite, and of the same size at both ends?",
    measure=first_gradient,
)
