"""Where the recorded loss stands, whether it still falls, and which law its fall follows."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.levels import ReferenceLevel
from diagnostics.probe import Probe
from diagnostics.probes.untrained_loss import batch_levels, kept_targets

BLOCKS = 20  # means of stretches of the curve, for the slope and for how long it has stood still
POINTS = 40  # medians of stretches that grow geometrically, for the law
START_UP = 0.02  # share of the curve, at its beginning, that no law is fitted to
EXPONENTS = tuple(0.05 * 1.1**index for index in range(40))  # 0.05 ... 2.06
REMAINDER = 0.01  # remainders of the losses are told apart to this share of a step


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """loss(step) = floor + scale * step ** -exponent, fitted to the curve by least squares.

    Args:
        floor: where the fall would end, nats; at least 0.
        scale: nats above the floor at step 1.
        exponent: how fast it falls.
        error: root mean square distance of the curve's medians from the law, nats.
    """

    floor: float
    scale: float
    exponent: float
    error: float

    def at(self, step: float) -> float:
        """The loss at a step."""
        return float(self.floor + self.scale * step**-self.exponent)

    def reaches(self, target: float) -> float:
        """The step at which the law gets to a loss; infinite where it never does."""
        if target <= self.floor or self.scale <= 0:
            return math.inf
        exponent = math.log(self.scale / (target - self.floor)) / self.exponent
        return math.exp(exponent) if exponent < 700 else math.inf


@dataclass(frozen=True, kw_only=True)
class LossCurve:
    """The recorded losses, in nats, against the step.

    Args:
        points: losses recorded; one per step.
        finite: how many of them are finite. Everything below counts these alone.
        first / lowest: the first and the lowest loss.
        standing: median of the last tenth.
        spread: half the distance between the 16th and the 84th percentile of the last tenth: one standard deviation
            where losses are normal.
        slope / slope_error: of the last half, nats per step, from the means of ten stretches.
        stood_still: steps since the curve's stretches last left ``standing`` by more than ``spread``.
        law: the power law that fits best; None below 20 points.
        targets: targets per batch that count; None without a token view.
        remainders: different remainders of the last half's losses modulo 1 / targets, told apart to a hundredth. A loss
            that can only take steps of 1 / targets (a saturated softmax: ceiling - hits / targets) has one or two; any
            other about as many as there are losses, up to a hundred.
        levels: reference levels of the batches' targets, nearest to ``standing`` first; empty without a token view.
    """

    points: int
    finite: int
    first: float
    lowest: float
    standing: float
    spread: float
    slope: float
    slope_error: float
    stood_still: int
    law: PowerLaw | None
    targets: int | None
    remainders: int | None
    levels: tuple[ReferenceLevel, ...]


def loss_curve(bench: Bench) -> LossCurve:
    """What the subject's own loss history shows."""
    history = bench.subject.history
    assert history is not None
    has_tokens = bench.subject.token_view is not None
    targets = int((kept_targets(bench.tokens, bench.batch(0)) >= 0).sum()) if has_tokens else None
    return measure_curve(history.values(), targets, batch_levels(bench) if has_tokens else ())


def measure_curve(
    values: list[float], targets: int | None = None, levels: tuple[ReferenceLevel, ...] = ()
) -> LossCurve:
    """What a list of losses shows.

    Raises:
        ValueError: no loss is finite.
    """
    every = torch.tensor(values, dtype=torch.float64)
    losses = every[every.isfinite()]
    if not len(losses):
        raise ValueError(f"none of the {len(values)} losses in the history is finite; there is no curve to look at")
    tail = losses[-max(1, len(losses) // 10) :]
    standing, spread = float(tail.median()), half_spread(tail)
    slope, slope_error = slope_of(losses[len(losses) // 2 :])
    return LossCurve(
        points=len(values),
        finite=len(losses),
        first=float(losses[0]),
        lowest=float(losses.min()),
        standing=standing,
        spread=spread,
        slope=slope,
        slope_error=slope_error,
        stood_still=stood_still(losses, standing, spread),
        law=power_law(losses) if len(losses) >= BLOCKS else None,
        targets=targets,
        remainders=None if targets is None else remainders(losses[len(losses) // 2 :], targets),
        levels=tuple(sorted(levels, key=lambda level: abs(level.nats - standing))),
    )


def half_spread(losses: Float[Tensor, " n"]) -> float:
    """Half the distance between the 16th and the 84th percentile."""
    low, high = torch.quantile(losses, torch.tensor([0.16, 0.84], dtype=losses.dtype)).tolist()
    return (high - low) / 2


def stretches(losses: Float[Tensor, " n"], count: int) -> list[Float[Tensor, " m"]]:
    """The curve cut into at most ``count`` stretches of about the same length."""
    return list(torch.tensor_split(losses, min(count, len(losses))))


def slope_of(losses: Float[Tensor, " n"]) -> tuple[float, float]:
    """Slope per step and its standard error, by least squares through the means of ten stretches.

    Means of stretches instead of single losses: neighbouring losses are not independent. (0, infinite) below three.
    """
    means = torch.stack([stretch.mean() for stretch in stretches(losses, BLOCKS // 2)])
    if len(means) < 3:
        return 0.0, math.inf
    steps = torch.arange(len(losses), dtype=losses.dtype)
    place = torch.stack([stretch.mean() for stretch in stretches(steps, BLOCKS // 2)])
    place -= place.mean()
    slope = (place @ means) / (place @ place)
    rest = means - means.mean() - slope * place
    return float(slope), float((rest @ rest / (len(means) - 2) / (place @ place)).sqrt())


def stood_still(losses: Float[Tensor, " n"], standing: float, spread: float) -> int:
    """Steps since the median of a stretch of the curve was last further than ``spread`` from where it stands."""
    steps = 0
    for stretch in reversed(stretches(losses, BLOCKS)):
        if abs(float(stretch.median()) - standing) > spread:
            break
        steps += len(stretch)
    return steps


def power_law(losses: Float[Tensor, " n"]) -> PowerLaw:
    """The law with the smallest squared distance from medians over geometrically growing stretches of the curve."""
    start = max(1.0, START_UP * len(losses))
    edges = torch.logspace(math.log10(start), math.log10(len(losses)), POINTS + 1).round().long().unique()
    edges[-1] = len(losses)
    medians = torch.stack([losses[a:b].median() for a, b in pairwise(edges.tolist())])
    steps = (edges[:-1] + edges[1:] + 1).double() / 2
    return min((law_of(steps, medians, exponent) for exponent in EXPONENTS), key=lambda law: law.error)


def law_of(steps: Float[Tensor, " n"], losses: Float[Tensor, " n"], exponent: float) -> PowerLaw:
    """The best floor and scale for an exponent: a straight line in step ** -exponent, floor and scale not negative."""
    shrunk = steps**-exponent
    centred = shrunk - shrunk.mean()
    scale = float((centred @ losses) / (centred @ centred))
    floor = float(losses.mean()) - scale * float(shrunk.mean())
    if floor < 0:
        floor, scale = 0.0, float((shrunk @ losses) / (shrunk @ shrunk))
    if scale < 0:
        floor, scale = float(losses.mean()), 0.0
    error = float((floor + scale * shrunk - losses).square().mean().sqrt())
    return PowerLaw(floor=floor, scale=scale, exponent=exponent, error=error)


def remainders(losses: Float[Tensor, " n"], targets: int) -> int:
    """Different remainders of the losses modulo 1 / targets, to a hundredth of that step and around the circle."""
    rounded = ((losses * targets) / REMAINDER).round() % round(1 / REMAINDER)
    return len(rounded.unique())


LOSS_CURVE = Probe(
    name="loss-curve",
    question="Where does the recorded loss stand, does it still fall, and by which law?",
    measure=loss_curve,
    needs=("history",),
)
