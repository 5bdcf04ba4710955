"""Gradient norms and update-to-weight ratios by module: at the first step, and over the first steps."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import Step, open_bench
from diagnostics.subject import Subject


@dataclass(frozen=True, kw_only=True)
class ModuleGradients:
    """The gradients of the parameters that one module holds itself.

    Args:
        module: dotted name; "(model)" for the model's own.
        parameters: trainable numbers.
        norms: length of the gradient per optimizer step, before clipping; 0 where there is none.
        update_ratios: length of the update over length of the weights, per step; NaN for weights that are all zero.
        zeros: entries whose gradient is exactly zero at the first step, those without a gradient included.
        always_zero: entries whose gradient is exactly zero at every step.
    """

    module: str
    parameters: int
    norms: tuple[float, ...]
    update_ratios: tuple[float, ...]
    zeros: int
    always_zero: int

    @property
    def usual_norm(self) -> float:
        """Median of the norms."""
        return statistics.median(self.norms)

    @property
    def usual_ratio(self) -> float:
        """Median of the update ratios."""
        return statistics.median(self.update_ratios)

    @property
    def never_moves(self) -> bool:
        """Whether no entry had a gradient at any step."""
        return self.always_zero == self.parameters


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """What the first optimizer steps on fresh batches look like, module by module from input to output."""

    seed: int
    losses: tuple[float, ...]
    modules: tuple[ModuleGradients, ...]

    @property
    def total_norms(self) -> tuple[float, ...]:
        """Length of the whole gradient per step."""
        steps = zip(*(module.norms for module in self.modules), strict=True)
        return tuple(math.hypot(*step) for step in steps)


Owned = dict[str, list[nn.Parameter]]


def gradients(
    subject: Subject, *, seed: int, steps: int, on_step: Callable[[int], None] = lambda done: None
) -> Gradients:
    """Train a fresh model for a few steps and watch every gradient.

    Args:
        subject: trained with its own optimizer, schedule and clipping.
        seed: of weights, batches and dropout.
        steps: optimizer steps; the training ends earlier where nothing moves any more.
        on_step: is called with the number of steps done.
    """
    watch = _Watch()

    def after(step: Step) -> None:
        watch.after_update(step)
        on_step(step.index + 1)

    with open_bench(subject, seed) as bench:
        losses = bench.train(bench.fresh_batches(), steps, before_update=watch.before_update, after_update=after)
    return Gradients(seed=seed, losses=tuple(losses), modules=watch.found())


def owned_parameters(model: nn.Module) -> Owned:
    """The trainable parameters by the module that holds them; a shared one belongs to the first."""
    seen: set[int] = set()
    owned: Owned = {}
    for name, module in model.named_modules():
        own = [each for each in module.parameters(recurse=False) if each.requires_grad and id(each) not in seen]
        seen |= {id(each) for each in own}
        if own:
            owned[name or "(model)"] = own
    return owned


class _Watch:
    """Collects the numbers of every step."""

    def __init__(self) -> None:
        self.norms: dict[str, list[float]] = defaultdict(list)
        self.ratios: dict[str, list[float]] = defaultdict(list)
        self.zeros: dict[str, int] = {}
        self.always_zero: dict[str, Tensor] = {}
        self.parameters: dict[str, int] = {}
        self.weights: dict[str, Tensor] = {}

    def before_update(self, step: Step) -> None:
        """Norms and zeros of this step's gradient, and the weights to compare with."""
        for name, own in owned_parameters(step.model).items():
            gradient = _joined([torch.zeros_like(each) if each.grad is None else each.grad for each in own])
            is_zero = gradient == 0
            self.norms[name].append(float(gradient.norm()))
            self.zeros.setdefault(name, int(is_zero.sum()))
            self.always_zero[name] = self.always_zero.get(name, is_zero) & is_zero
            self.parameters[name] = gradient.numel()
            self.weights[name] = _joined(own)

    def after_update(self, step: Step) -> None:
        """How far the update moved the weights."""
        for name, own in owned_parameters(step.model).items():
            before = self.weights[name]
            moved, length = float((_joined(own) - before).norm()), float(before.norm())
            self.ratios[name].append(moved / length if length > 0 else math.nan)

    def found(self) -> tuple[ModuleGradients, ...]:
        """All of it, module by module."""
        return tuple(
            ModuleGradients(
                module=name,
                parameters=self.parameters[name],
                norms=tuple(norms),
                update_ratios=tuple(self.ratios[name]),
                zeros=self.zeros[name],
                always_zero=int(self.always_zero[name].sum()),
            )
            for name, norms in self.norms.items()
        )


def _joined(tensors: list[Tensor] | list[nn.Parameter]) -> Float[Tensor, " entries"]:
    """All entries in one row, a copy."""
    return torch.cat([each.detach().flatten() for each in tensors])
