"""What the same first steps come to at other learning rates, and with a warm-up."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean, median, stdev

import torch
from torch import nn

from diagnostics.bench import Bench, Step
from diagnostics.copies import model_copy
from diagnostics.probe import Probe

STEPS = 40
FACTORS = (0.1, 1.0, 10.0)
EVALUATE_EVERY = 4  # steps, within the last quarter
HELDOUT_BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """One training run from the same weights, on the same batches.

    Args:
        factor: on the subject's learning rate.
        warm_up: whether the rate rose linearly over the run.
        losses: training losses, nats, step by step; shorter than STEPS where nothing could move any more.
        end: mean loss in evaluation mode over the last quarter of the run, nats, on the same held-out batches.
        spread: standard deviation of those evaluations.
        finite: whether every loss was finite.
        first_update: median over matrices of ||step|| / ||weights|| at the first step that has a rate.
    """

    factor: float
    warm_up: bool
    losses: tuple[float, ...]
    end: float
    spread: float
    finite: bool
    first_update: float


@dataclass(frozen=True, kw_only=True)
class RateScan:
    """The curves at FACTORS times the subject's learning rate, and one with warm-up.

    Args:
        start: loss before any step, on the same held-out batches, evaluation mode.
        curves: without warm-up, in the order of FACTORS.
        warmed: factor 1 with a linear warm-up over the run.
        adaptive: whether the optimizer keeps running squares of gradients (Adam and its kin).
        first_factor: what the subject's own schedule makes of the rate at its first step.
        moving_factor: the first such factor that is not zero; 0 where all of them are.
    """

    start: float
    curves: tuple[RateCurve, ...]
    warmed: RateCurve
    adaptive: bool
    first_factor: float
    moving_factor: float

    def at(self, factor: float) -> RateCurve:
        """The curve at that factor."""
        return next(curve for curve in self.curves if curve.factor == factor)


def evaluated(bench: Bench, model: nn.Module) -> float:
    """Loss in evaluation mode on the held-out batches, nats."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        losses = [float(bench.loss(model, batch)) for batch in bench.heldout_batches(HELDOUT_BATCHES)]
    model.train(was_training)
    return fmean(losses)


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Parameters with two axes or more that are trained."""
    return [p for p in model.parameters() if p.requires_grad and p.dim() > 1]


def relative_updates(before: list[torch.Tensor], model: nn.Module) -> list[float]:
    """||step|| / ||weights|| of every matrix that was not zero before."""
    pairs = zip(before, matrices(model), strict=True)
    return [float((new.detach() - old).norm() / old.norm()) for old, new in pairs if bool(old.any())]


def factor_at(bench: Bench, step: int) -> float:
    """What the subject's own schedule makes of the rate at a step."""
    return 1.0 if bench.subject.schedule is None else bench.subject.schedule(step)


def schedule_with(bench: Bench, factor: float, warm_up: bool) -> Callable[[int], float]:
    """The subject's schedule times a factor, and times a linear rise over the scan where asked for."""
    return lambda step: factor * factor_at(bench, step) * (min(1.0, (step + 1) / STEPS) if warm_up else 1.0)


def rate_curve(bench: Bench, factor: float, warm_up: bool) -> RateCurve:
    """A training run of a copy of the bench's model at ``factor`` times its learning rate."""
    subject = replace(bench.subject, schedule=schedule_with(bench, factor, warm_up))
    run = replace(bench, subject=subject, model=model_copy(bench.model))
    before = [p.detach().clone() for p in matrices(run.model)]
    updates: list[float] = []
    ends: list[float] = []

    def look(step: Step) -> None:
        if not updates and factor_at(bench, step.index):
            updates.extend(relative_updates(before, run.model))
        if step.index >= STEPS * 3 // 4 and (STEPS - 1 - step.index) % EVALUATE_EVERY == 0:
            ends.append(evaluated(bench, run.model))

    torch.manual_seed(bench.seed)
    losses = run.train(islice(bench.fresh_batches(), STEPS), STEPS, after_update=look)
    ends = ends or [evaluated(bench, run.model)]
    return RateCurve(
        factor=factor,
        warm_up=warm_up,
        losses=tuple(losses),
        end=fmean(ends),
        spread=stdev(ends) if len(ends) > 1 else 0.0,
        finite=all(map(math.isfinite, (*losses, *ends))),
        first_update=median(updates) if updates else 0.0,
    )


def is_adaptive(bench: Bench) -> bool:
    """Whether the optimizer has the betas or the eps of a method that divides by a running square."""
    return bool({"betas", "alpha"} & set(bench.subject.optimizer(bench.model).defaults))


def rate_scan(bench: Bench) -> RateScan:
    """The first STEPS steps at FACTORS times the learning rate and with a warm-up."""
    factors = [factor_at(bench, step) for step in range(STEPS)]
    return RateScan(
        start=evaluated(bench, bench.model),
        curves=tuple(rate_curve(bench, factor, warm_up=False) for factor in FACTORS),
        warmed=rate_curve(bench, 1.0, warm_up=True),
        adaptive=is_adaptive(bench),
        first_factor=factors[0],
        moving_factor=next(filter(None, factors), 0.0),
    )


RATE_SCAN = Probe(
    name="rate-scan",
    question="Would a tenth or ten times the learning rate, or a warm-up, do better from the same start?",
    measure=rate_scan,
    cost="training",
)
