"""Whether a loss has stopped falling: a test that takes noise, slow progress and steps for what they are."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

POINTS = 512  # of a curve, at most; twice as many blocks are merged in pairs
FEWEST_STEPS = 200  # before a loss is said to stand still
FEWEST_BLOCKS = 32
SLOWEST = 0.01  # ours: a loss that falls by less than 1 % while the steps double stands still
ERRORS = 2.0  # standard errors by which that has to be sure


@dataclass
class Curve:
    """A loss over any number of steps in bounded memory, as means over blocks of equally many of them."""

    block: int = 1
    means: list[float] = field(default_factory=list)
    _open: list[float] = field(default_factory=list)

    def add(self, loss: float) -> None:
        """The loss of the next step."""
        self._open.append(loss)
        if len(self._open) == self.block:
            self.means.append(statistics.fmean(self._open))
            self._open.clear()
        if len(self.means) == 2 * POINTS:
            self.means = [(one + other) / 2 for one, other in zip(self.means[::2], self.means[1::2], strict=True)]
            self.block *= 2

    @property
    def steps(self) -> int:
        """How many steps it holds."""
        return len(self.means) * self.block + len(self._open)


@dataclass(frozen=True, kw_only=True)
class Standstill:
    """A loss that has stopped falling.

    Args:
        steps: for how many it has been looked at.
        level: its median in these.
        fall: how much lower it ended than it began in them, by the medians of their first and last quarters.
        error: of that, one standard error.
    """

    steps: int
    level: float
    fall: float
    error: float


def standstill(curve: Curve) -> Standstill | None:
    """Whether the loss has stood still for the last half of the run; None: it falls, or nobody can say yet.

    The last half is long enough to be seen whatever the scale of the run, and a loss that falls as a power of the
    steps, however slowly, has fallen in it by a fixed share. The fall is that from the median of its first quarter of
    blocks to the median of its last one. It must be surely (by ERRORS standard errors) smaller than what SLOWEST allows
    over such a stretch: where noise hides it, nothing is said.
    """
    if curve.steps < FEWEST_STEPS or len(curve.means) < FEWEST_BLOCKS:
        return None
    half = curve.means[len(curve.means) // 2 :]
    if not all(map(math.isfinite, half)):
        return None
    quarter = len(half) // 4
    first, last = half[:quarter], half[-quarter:]
    level = statistics.median(half)
    fall = statistics.median(first) - statistics.median(last)
    error = math.hypot(error_of_median(first), error_of_median(last))
    stretch = math.log2((2 - 1 / 8) / (1 + 1 / 8))  # doublings of the steps between the middles of the quarters
    if fall + ERRORS * error >= SLOWEST * stretch * abs(level):
        return None
    return Standstill(steps=len(half) * curve.block, level=level, fall=fall, error=error)


def error_of_median(values: Sequence[float]) -> float:
    """Standard error of a median of independent values, from the median size of the changes between neighbours.

    For normal values these changes have a median of 0.954 standard deviations, and the median an error of 1.253
    standard deviations by the root of their number. A trend does not count as noise, nor does a single jump.
    """
    changes = [abs(b - a) for a, b in pairwise(values)]
    return 1.253 / 0.954 * statistics.median(changes) / math.sqrt(len(values))
