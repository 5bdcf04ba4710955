"""How far a step moves each weight, relative to its size."""

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from diagnostics.bench import Bench, Step
from diagnostics.probe import Probe

STEPS = 20


@dataclass(frozen=True, kw_only=True)
class UpdateRatio:
    """||change|| / ||weights before|| of one parameter: at the first step, and the median over the first steps."""

    name: str
    first: float
    median: float


@dataclass(frozen=True, kw_only=True)
class UpdateRatios:
    """Relative updates over the first STEPS steps of training a fresh model.

    Args:
        matrices: parameters with two axes or more that do not begin at zero.
        first: median of their first updates; about 1e-3 to 1e-2 is usual, 0.1 is a rewrite.
        median: median of their medians.
        vectors: the other parameters that do not begin at zero.
    """

    matrices: tuple[UpdateRatio, ...]
    first: float
    median: float
    vectors: tuple[UpdateRatio, ...]


def update_ratios(bench: Bench) -> UpdateRatios:
    """Relative updates of every parameter of a freshly initialised model."""
    weights = {name: p for name, p in bench.model.named_parameters() if p.requires_grad and bool(p.any())}
    before: dict[str, Tensor] = {}
    ratios: dict[str, list[float]] = {name: [] for name in weights}

    def keep(step: Step) -> None:
        before.update((name, p.detach().clone()) for name, p in weights.items())

    def compare(step: Step) -> None:
        for name, p in weights.items():
            ratios[name].append(float((p.detach() - before[name]).norm() / before[name].norm()))

    torch.manual_seed(bench.seed)
    bench.train(bench.fresh_batches(), STEPS, before_update=keep, after_update=compare)
    found = {name: UpdateRatio(name=name, first=seen[0], median=median(seen)) for name, seen in ratios.items()}
    matrices = tuple(ratio for name, ratio in found.items() if weights[name].dim() > 1)
    return UpdateRatios(
        matrices=matrices,
        first=median(ratio.first for ratio in matrices) if matrices else 0.0,
        median=median(ratio.median for ratio in matrices) if matrices else 0.0,
        vectors=tuple(ratio for name, ratio in found.items() if weights[name].dim() < 2),
    )


UPDATE_RATIOS = Probe(
    name="update-ratios",
    question="How far does a step move each weight, relative to its size?",
    measure=update_ratios,
    cost="training",
)
