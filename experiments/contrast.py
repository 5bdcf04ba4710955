"""Whether one group of runs is better than another, in one sentence that says how sure that is.

Runs of a group have the same configuration and different seeds. Where both groups have the same seeds, the differences
of seed and seed are tested (paired Student's t-test), otherwise the two groups (Welch's t-test, which assumes no equal
spread).

Source: Student 1908, "The probable error of a mean"; Welch 1947, "The generalization of Student's problem when several
different population variances are involved"; Guenther 1981, "Sample size formulas for normal theory t tests".
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from experiments.run import larger_is_better, unit

Kind = Literal["paired", "welch", "too few"]
LEVEL = 0.05  # a difference is told where chance alone shows one as large in fewer than one of twenty comparisons
POWER = 0.8  # Cohen 1988, section 2.4: the share of comparisons in which a true difference should be found
MOST_SEEDS = 1000  # ours: a difference that needs more is no difference for anybody who trains models


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One group of runs against another.

    Args:
        difference: mean of `group` less mean of `baseline`, in units of the metric.
        half_width: of the 95 % interval of the difference; NaN where there are too few seeds for one.
        p: how often chance alone shows a difference at least as large; NaN where there are too few seeds.
        seeds: pairs, or runs of the smaller group.
        more_seeds: how many more would tell, if the difference is as large as it looks; None where none are needed, or
            more than MOST_SEEDS.
    """

    group: str
    baseline: str
    metric: str
    kind: Kind
    difference: float
    half_width: float
    p: float
    seeds: int
    more_seeds: int | None

    @property
    def is_told(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p < LEVEL

    @property
    def sentence(self) -> str:
        """What can be said, for people."""
        if self.kind == "too few":
            return f"cannot tell {self.group} from {self.baseline} ({self._figures()}): {self._seeds_missing()}"
        if self.is_told:
            better, worse = self._ranked()
            return f"{better} is better than {worse} by {self._figures()}, {self._basis()}"
        return f"cannot tell {self.group} from {self.baseline} ({self._figures()}, {self._basis()}): {self._more()}"

    def _ranked(self) -> tuple[str, str]:
        is_better = (self.difference > 0) == larger_is_better(self.metric)
        return (self.group, self.baseline) if is_better else (self.baseline, self.group)

    def _figures(self) -> str:
        size = abs(self.difference) if self.is_told else self.difference
        if math.isnan(self.half_width):
            return f"{size:+.3g} {unit(self.metric)}"
        digits = decimals(self.half_width or size)
        return f"{size:.{digits}f} +- {self.half_width:.{digits}f} {unit(self.metric)}"

    def _basis(self) -> str:
        return f"{self.seeds} seeds, paired" if self.kind == "paired" else f"at least {self.seeds} seeds each, unpaired"

    def _seeds_missing(self) -> str:
        return "one seed says nothing about chance; run at least 2 more of each, with the same seeds"

    def _more(self) -> str:
        if self.difference == 0:
            return "they came to the same"
        if self.more_seeds is None:
            return f"{MOST_SEEDS:,} seeds would not do, if the difference is as large as it looks"
        return f"needs about {self.more_seeds} more seeds, if the difference is as large as it looks"


def contrast(
    group: str,
    values: Mapping[Hashable, float],
    baseline: str,
    baseline_values: Mapping[Hashable, float],
    *,
    metric: str,
) -> Contrast:
    """One group against another.

    Args:
        group: its name, for the sentence.
        values: seed -> what the run with this seed came to.
        metric: decides whether more is better, and the unit.

    >>> contrast("b", {0: 2.0, 1: 2.2, 2: 2.1}, "a", {0: 2.5, 1: 2.7, 2: 2.61}, metric="val/loss").sentence
    'b is better than a by 0.503 +- 0.014 nats/token, 3 seeds, paired'
    """
    shared = sorted(values.keys() & baseline_values.keys(), key=str)
    kind: Kind = "paired" if len(shared) > 1 else "welch"
    if kind == "paired":
        found = paired([values[seed] - baseline_values[seed] for seed in shared])
    elif min(len(values), len(baseline_values)) > 1:
        found = welch(list(values.values()), list(baseline_values.values()))
    else:
        kind = "too few"
        difference = float(np.mean(list(values.values())) - np.mean(list(baseline_values.values())))
        found = Tested(difference, math.nan, math.nan, min(len(values), len(baseline_values)), math.nan)
    needed = None if kind == "too few" or found.p < LEVEL else seeds_needed(found.effect, kind)
    return Contrast(
        group=group,
        baseline=baseline,
        metric=metric,
        kind=kind,
        difference=found.difference,
        half_width=found.half_width,
        p=found.p,
        seeds=found.seeds,
        more_seeds=None if needed is None else max(1, needed - found.seeds),
    )


@dataclass(frozen=True)
class Tested:
    """What a test gives: difference, half of its 95 % interval, p, seeds; and the difference in standard deviations."""

    difference: float
    half_width: float
    p: float
    seeds: int
    effect: float


def paired(differences: Sequence[float]) -> Tested:
    """Student's t-test of differences between runs of the same seed; at least 2."""
    from scipy import stats

    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread <= abs(mean) * 1e-12:  # the same difference with every seed: no spread to test against
        return _without_spread(mean, len(differences))
    found = stats.ttest_1samp(differences, 0.0)
    low, high = found.confidence_interval(1 - LEVEL)
    return Tested(mean, float(high - low) / 2, float(found.pvalue), len(differences), mean / spread)


def welch(values: Sequence[float], baseline: Sequence[float]) -> Tested:
    """Welch's t-test of two groups of at least 2 runs each."""
    from scipy import stats

    difference = float(np.mean(values) - np.mean(baseline))
    spread = math.sqrt((float(np.var(values, ddof=1)) + float(np.var(baseline, ddof=1))) / 2)
    seeds = min(len(values), len(baseline))
    if spread <= abs(difference) * 1e-12:
        return _without_spread(difference, seeds)
    found = stats.ttest_ind(values, baseline, equal_var=False)
    low, high = found.confidence_interval(1 - LEVEL)
    return Tested(difference, float(high - low) / 2, float(found.pvalue), seeds, difference / spread)


def _without_spread(difference: float, seeds: int) -> Tested:
    return Tested(difference, 0.0, 0.0 if difference else 1.0, seeds, math.inf if difference else 0.0)


def seeds_needed(effect: float, kind: Kind) -> int | None:
    """How many seeds (pairs, or runs of each group) find a difference with probability POWER; None: over MOST_SEEDS.

    n = (z(1 - LEVEL/2) + z(POWER))^2 / effect^2 + z(1 - LEVEL/2)^2 / 2 for pairs; twice the first term and half of the
    second for two groups.

    Args:
        effect: the difference in standard deviations: of the differences for pairs, of the runs for two groups.
    Source: Guenther 1981: normal theory, with a correction for the t distribution.

    >>> seeds_needed(1.0, "paired"), seeds_needed(1.0, "welch")
    (10, 17)
    """
    level, power = NormalDist().inv_cdf(1 - LEVEL / 2), NormalDist().inv_cdf(POWER)
    groups = 1 if kind == "paired" else 2
    if not effect:
        return None
    needed = groups * ((level + power) / effect) ** 2 + level**2 / (2 * groups)
    return math.ceil(needed) if needed <= MOST_SEEDS else None


def decimals(size: float) -> int:
    """Decimals that show two figures of a number.

    >>> decimals(0.0123), decimals(17.0)
    (3, 0)
    """
    return 2 if not size or not math.isfinite(size) else max(0, 1 - math.floor(math.log10(abs(size))))
