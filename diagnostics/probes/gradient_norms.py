"""How long the gradients are, parameter by parameter and step by step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.bench import Bench, Step
from diagnostics.probe import Probe

STEPS = 20


@dataclass(frozen=True, kw_only=True)
class GradientNorms:
    """Gradient norms of a fresh model over the first STEPS steps of training, before any clipping.

    Args:
        first: (parameter, norm of its gradient) at the first step, in the model's order; NaN where it has none.
        modules: (module, number of numbers) for each module that owns parameters, in the model's order.
        over_steps: for each step the norm over the parameters of each of ``modules``.
        missing: trainable parameters without any gradient at the first step.
        zero: those with a gradient of exactly zero at the first step.
        nonfinite: those with an infinite or undefined gradient at the first step.
        first_nonfinite: the first module whose output is not finite at the first step.
        losses: training losses, nats.
    """

    first: tuple[tuple[str, float], ...]
    modules: tuple[tuple[str, int], ...]
    over_steps: tuple[tuple[float, ...], ...]
    missing: tuple[str, ...]
    zero: tuple[str, ...]
    nonfinite: tuple[str, ...]
    first_nonfinite: str | None
    losses: tuple[float, ...]


def owners(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by the module that owns them; tied ones count where they come first."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found.setdefault(name.rpartition(".")[0], []).append(parameter)
    return found


def norm(parameters: list[nn.Parameter]) -> float:
    """Length of the gradient over some parameters; 0 where there is none."""
    lengths = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return float(torch.stack(lengths).norm()) if lengths else 0.0


def first_nonfinite(bench: Bench) -> str | None:
    """The first module, innermost first, whose output holds an infinite or undefined number."""
    seen: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and not bool(torch.isfinite(output).all()):
                seen.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in bench.model.named_modules()]
    with torch.no_grad():
        bench.loss(bench.model.train())
    for handle in handles:
        handle.remove()
    return seen[0] if seen else None


def gradient_norms(bench: Bench) -> GradientNorms:
    """Gradient norms of a freshly initialised model at its first step and over the first STEPS steps."""
    broken = first_nonfinite(bench)
    parameters = {name: p for name, p in bench.model.named_parameters() if p.requires_grad}
    by_module = owners(bench.model)
    first: dict[str, float] = {}
    missing: list[str] = []
    over_steps: list[tuple[float, ...]] = []

    def look(step: Step) -> None:
        if step.index == 0:
            missing.extend(name for name, p in parameters.items() if p.grad is None)
            for name, parameter in parameters.items():
                first[name] = math.nan if parameter.grad is None else float(parameter.grad.norm())
        over_steps.append(tuple(norm(owned) for owned in by_module.values()))

    torch.manual_seed(bench.seed)
    losses = bench.train(bench.fresh_batches(), STEPS, before_update=look)
    return GradientNorms(
        first=tuple(first.items()),
        modules=tuple((name, sum(p.numel() for p in owned)) for name, owned in by_module.items()),
        over_steps=tuple(over_steps),
        missing=tuple(missing),
        zero=tuple(name for name, length in first.items() if length == 0),
        nonfinite=tuple(name for name, length in first.items() if not math.isfinite(length) and name not in missing),
        first_nonfinite=broken,
        losses=tuple(losses),
    )


GRADIENT_NORMS = Probe(
    name="gradient-norms",
    question="Does every module get a gradient, at the first step and after it?",
    measure=gradient_norms,
    cost="training",
)
