"""Where the curves of two groups of runs part, and in which settings the groups differ."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.run import Value, shown

Curve = npt.NDArray[np.float64]

POINTS = 200  # at which curves are compared
SMOOTHED = 0.05  # share of a curve's points that its moving average reaches over
LEAST_WINDOW = 3  # points that it reaches over at least: of fewer, nothing is learned about noise
APART = 2.0  # standard errors of the difference: about a twentieth of chance per point
LASTING = 0.1  # share of the common range that a parting lasts at least, to its end: one odd point is none
SETTINGS = 4  # that a sentence names


@dataclass(frozen=True, kw_only=True)
class Parting:
    """Where two groups part.

    Args:
        at: on the axis, from where on the curves stay apart by more than chance; None: they do not.
        step: the step there.
        until: the end of what both have.
        settings: what the groups differ in: name -> (of the group, of the baseline).
    """

    group: str
    baseline: str
    metric: str
    axis: str
    at: float | None
    step: float | None
    until: float
    settings: Mapping[str, tuple[Value, Value]]

    @property
    def sentence(self) -> str:
        """What can be said, for people."""
        pair = f"{self.group} and {self.baseline}"
        if math.isnan(self.until):
            return f"{pair} have no {self.metric} at the same {self.axis}"
        if self.at is None:
            return f"{pair} do not part in {self.metric} up to {self._place(self.until)}"
        step = "" if self.axis == "step" or self.step is None else f", step {self.step:,.0f}"
        return f"{pair} part in {self.metric} at {self._place(self.at)}{step}; {self._differences()}"

    def _place(self, at: float) -> str:
        return f"step {at:,.0f}" if self.axis == "step" else f"{at:,.{1 if self.axis == 'seconds' else 0}f} {self.axis}"

    def _differences(self) -> str:
        told = [f"{name} ({shown(a)} against {shown(b)})" for name, (a, b) in self.settings.items()]
        more = f" and {len(told) - SETTINGS} more settings" if len(told) > SETTINGS else ""
        return f"they differ in {', '.join(told[:SETTINGS])}{more}"


def parting(
    group: str,
    baseline: str,
    curves: pd.DataFrame,
    group_of: pd.Series,
    config: pd.DataFrame,
    metric: str,
    axis: str,
) -> Parting:
    """Where the mean curves of two groups begin to differ by more than chance, and keep doing so.

    Chance is the standard error of the difference of the means: from the seeds where both groups have several, and
    from what smoothing takes away of each curve; the larger of the two. Ours.

    Args:
        curves: see `compare.Frames`; `group_of` gives the group of each run.
        config: the settings that differ, by run.
    """
    of_group, of_baseline = (curves[curves["run"].isin(group_of.index[group_of == each])] for each in (group, baseline))
    ours, theirs = _curves(of_group, metric, axis), _curves(of_baseline, metric, axis)
    settings = _settings(config[group_of == group].iloc[0], config[group_of == baseline].iloc[0])
    at, until = _place_of_parting(ours, theirs) if ours and theirs else (None, math.nan)
    return Parting(
        group=group,
        baseline=baseline,
        metric=metric,
        axis=axis,
        at=at,
        step=None if at is None else _step(of_group, axis, at),
        until=until,
        settings=settings,
    )


def _curves(curves: pd.DataFrame, metric: str, axis: str) -> list[tuple[Curve, Curve]]:
    """Axis and values of each run that has both; in the order of the axis."""
    rows = curves[["run", axis, metric]].dropna()
    rows = rows[np.isfinite(rows[metric])].sort_values(axis, kind="stable")
    parts = (part for _, part in rows.groupby("run", observed=True, sort=False))
    return [(part[axis].to_numpy(np.float64), part[metric].to_numpy(np.float64)) for part in parts]


def _place_of_parting(ours: list[tuple[Curve, Curve]], theirs: list[tuple[Curve, Curve]]) -> tuple[float | None, float]:
    """From where on the curves stay apart, and where the common range ends; NaN where there is none."""
    begin = max(at[0] for at, _ in ours + theirs)
    end = min(at[-1] for at, _ in ours + theirs)
    if begin > end:
        return None, math.nan
    grid = np.linspace(begin, end, POINTS)
    (mean_a, error_a), (mean_b, error_b) = (_mean(each, grid) for each in (ours, theirs))
    inside = np.abs(mean_a - mean_b) <= APART * np.hypot(error_a, error_b)
    from_ = 0 if not inside.any() else int(np.flatnonzero(inside)[-1]) + 1
    lasts = POINTS - from_ >= LASTING * POINTS
    return (float(grid[from_]) if lasts else None), float(end)


def _mean(runs: list[tuple[Curve, Curve]], grid: Curve) -> tuple[Curve, Curve]:
    """The mean of smoothed curves on a grid, and its standard error."""
    smoothed, noise = zip(*(_smoothed(at, values, grid) for at, values in runs), strict=True)
    mean = np.mean(smoothed, axis=0)
    within = math.sqrt(sum(each**2 for each in noise)) / len(runs)
    if len(runs) == 1:
        return mean, np.full_like(grid, within)
    between = np.std(smoothed, axis=0, ddof=1) / math.sqrt(len(runs))
    return mean, np.maximum(between, within)


def _smoothed(at: Curve, values: Curve, grid: Curve) -> tuple[Curve, float]:
    """A curve's moving average on a grid, and the standard error that its noise leaves in it.

    The mean of w values with noise of variance v has variance v / w; at both ends of a curve only half are there.
    """
    window = max(LEAST_WINDOW, round(SMOOTHED * len(values)))
    average = smooth(pd.Series(values), window).to_numpy()
    noise = float(np.std(values - average)) * math.sqrt(2 / window)
    return np.interp(grid, at, average), noise


def smooth(values: pd.Series, window: int) -> pd.Series:
    """A curve without most of its noise: the mean of `window` values around each, so that nothing comes late.

    >>> smooth(pd.Series([3.0, 6.0, 0.0]), 3).tolist()
    [4.5, 3.0, 3.0]
    """
    return values.rolling(max(1, window), center=True, min_periods=1).mean()


def _settings(ours: pd.Series, theirs: pd.Series) -> dict[str, tuple[Value, Value]]:
    return {str(name): (ours[name], theirs[name]) for name in ours.index if ours[name] != theirs[name]}


def _step(curves: pd.DataFrame, axis: str, at: float) -> float | None:
    """The first step of a group at or after a place on the axis."""
    if "step" not in curves:
        return None
    later = curves.loc[curves[axis] >= at, "step"]
    return float(later.min()) if len(later) else None
