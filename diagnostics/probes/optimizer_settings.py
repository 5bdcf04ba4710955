"""The optimizer's settings beside what they do to this model: rates, momenta, decay, epsilon and schedule."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.bench import Bench
from diagnostics.probe import Probe

HORIZON = 1000  # steps of the schedule that are looked at where no history says how long the run was
SAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings of the group with the most numbers, and what they come to. None: this optimizer has no such setting.

    Args:
        lr: largest learning rate of any group.
        adaptive: whether it divides by a running square of the gradient (Adam and its kin).
        momentum / beta1 / beta2 / eps / weight_decay: as they are set.
        maximize: whether any group asks to go uphill.
        gradient_rms: root mean square of the entries of the gradient on the first batch, zeros left out.
        gradient / weights: their norms over everything that is trained.
        decay_step: relative change of the weights by a first step with a gradient of zero.
        learning_step: relative change by the gradient, in the first step.
        horizon: steps of the schedule that were looked at: the length of the history where there is one.
        from_history: whether that is so.
        peak / peak_step / last: largest factor of the schedule, where it is, and the factor at the end.
        faded_step: the first step from which on the factor stays under a hundredth of its peak; None: it never does.
        lowest: the smallest factor.
    """

    lr: float
    adaptive: bool
    momentum: float | None
    beta1: float | None
    beta2: float | None
    eps: float | None
    weight_decay: float | None
    maximize: bool
    gradient_rms: float
    gradient: float
    weights: float
    decay_step: float
    learning_step: float
    horizon: int
    from_history: bool
    peak: float
    peak_step: int
    last: float
    faded_step: int | None
    lowest: float


def number(value: Any) -> float | None:
    """A setting as a plain number; None where it is none."""
    if isinstance(value, bool) or value is None:
        return None
    return float(value) if isinstance(value, int | float | Tensor) else None


def held(optimizer: Optimizer) -> list[Tensor]:
    """What it trains, each once."""
    return list({id(p): p for group in optimizer.param_groups for p in group["params"] if p.requires_grad}.values())


def length(tensors: list[Tensor]) -> float:
    """Norm over all of them."""
    return float(torch.stack([t.detach().float().norm() for t in tensors]).norm()) if tensors else 0.0


def stepped(make: Callable[[nn.Module], Optimizer], model: nn.Module, gradients: list[Tensor]) -> list[Tensor]:
    """How a fresh optimizer's first step with these gradients would change the weights; they are put back."""
    optimizer = make(model)
    weights = held(optimizer)
    before = [p.detach().clone() for p in weights]
    for parameter, gradient in zip(weights, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()
    changes = [p.detach() - old for p, old in zip(weights, before, strict=True)]
    with torch.no_grad():
        for parameter, old in zip(weights, before, strict=True):
            parameter.copy_(old)
            parameter.grad = None
    return changes


def first_changes(bench: Bench, weights: list[Tensor], gradients: list[Tensor]) -> tuple[float, float]:
    """Relative change by a step without any gradient, and what the gradient adds; zeros where it cannot be tried."""
    make, size = bench.subject.optimizer, length(weights)
    own = {id(p) for p in bench.model.parameters()}
    if any(id(p) not in own for p in weights):  # somebody else's tensors are not ours to step on
        return 0.0, 0.0
    try:
        idle = stepped(make, bench.model, [torch.zeros_like(g) for g in gradients])
        whole = stepped(make, bench.model, gradients)
    except (TypeError, RuntimeError, ValueError):  # a closure, say
        return 0.0, 0.0
    if size == 0:
        return 0.0, 0.0
    return length(idle) / size, length([a - b for a, b in zip(whole, idle, strict=True)]) / size


def schedule_facts(bench: Bench) -> dict[str, Any]:
    """Peak, end and fading of the schedule's factor over the run."""
    history, schedule = bench.subject.history, bench.subject.schedule
    horizon = len(history.losses) if history is not None and history.losses else HORIZON
    steps = sorted({*range(min(horizon, 50)), *(horizon * i // SAMPLES for i in range(SAMPLES)), horizon - 1})
    factors = [1.0 if schedule is None else float(schedule(step)) for step in steps]
    peak = max(factors)
    above = [step for step, factor in zip(steps, factors, strict=True) if factor >= peak / 100]
    faded = next((step for step in steps if step > above[-1]), None) if peak > 0 else None
    return {
        "horizon": horizon,
        "from_history": history is not None and bool(history.losses),
        "peak": peak,
        "peak_step": steps[factors.index(peak)],
        "last": factors[-1],
        "faded_step": faded,
        "lowest": min(factors),
    }


def optimizer_settings(bench: Bench) -> OptimizerSettings:
    """Settings of the optimizer, and its first step with and without a gradient."""
    model = bench.model.train()
    optimizer = bench.subject.optimizer(model)
    weights = held(optimizer)
    group = max(optimizer.param_groups, key=lambda g: sum(p.numel() for p in g["params"]))
    loss = bench.loss(model)
    found = torch.autograd.grad(loss, weights, allow_unused=True) if loss.requires_grad and weights else ()
    gradients = [torch.zeros_like(p) if g is None else g.to_dense() for p, g in zip(weights, found, strict=bool(found))]
    entries = sum(int((g != 0).sum()) for g in gradients)
    decay_step, learning_step = first_changes(bench, weights, gradients)
    betas = group.get("betas") or (None, None)
    return OptimizerSettings(
        lr=max(float(g["lr"]) for g in optimizer.param_groups),
        adaptive=bool({"betas", "alpha"} & set(group)),
        momentum=number(group.get("momentum")),
        beta1=number(betas[0]),
        beta2=number(betas[1]) if len(betas) > 1 else None,
        eps=number(group.get("eps")),
        weight_decay=number(group.get("weight_decay")),
        maximize=any(bool(g.get("maximize")) for g in optimizer.param_groups),
        gradient_rms=length(gradients) / math.sqrt(entries) if entries else 0.0,
        gradient=length(gradients),
        weights=length(weights),
        decay_step=decay_step,
        learning_step=learning_step,
        **schedule_facts(bench),
    )


OPTIMIZER_SETTINGS = Probe(
    name="optimizer-settings",
    question="What do the optimizer's settings come to on this model?",
    measure=optimizer_settings,
)
