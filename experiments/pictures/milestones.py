"""What holds after the repairs."""

import math
import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diagnostics.diagnosis import Diagnosis, Milestone
from experiments.pictures.drawing import GREEN, INK, STYLED, VERMILION, Picture, mean, new_figure, short, wrapped


@STYLED
def milestone_rows(milestones: Sequence[Milestone]) -> Figure | None:
    """Each milestone as its line and one dot per seed: green where it is reached."""
    shown = [each for each in milestones if any(math.isfinite(value) and value > 0 for value in each.values)]
    if not shown:
        return None
    lines = sum(wrapped(each.claim).count("\n") for each in shown)
    figure, axes = new_figure(0.35 + 0.8 * len(shown) + 0.15 * lines, rows=len(shown))
    for each, ax in zip(shown, axes, strict=True):
        values = [value for value in each.values if math.isfinite(value) and value > 0]
        colour = GREEN if each.reached else VERMILION
        ax.plot(values, [0] * len(values), "o" if each.reached else "X", color=colour, markersize=6, alpha=0.85)
        ax.axvline(each.bound, color=INK, linestyle="--", linewidth=1)
        ax.set_xscale("log")
        ax.set(xlim=_log_limits([*values, each.bound]), ylim=(-1, 1), yticks=())
        ax.spines["left"].set_visible(False)
        ticks = (statistics.fmean(values), each.bound)
        ax.set_xticks(ticks if abs(math.log(ticks[0] / ticks[1])) > 0.25 * _decades(ax) else ticks[1:])
        ax.set_xticks([], minor=True)
        ax.xaxis.set_major_formatter("{x:.3g}")
        ax.set_title(wrapped(each.claim), fontsize=9.5)
    return figure


def _log_limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high / low) ** 0.25 if high > low else 2.0
    return low / margin, high * margin


def _decades(axes: Axes) -> float:
    low, high = axes.get_xlim()
    return math.log(high / low)


def milestones_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    figure = milestone_rows(diagnosis.milestones)
    if figure is None:
        return None
    told = "; ".join(
        f"{each.claim}: {mean(each.values)} against {short(each.bound)}, {'reached' if each.reached else 'missed'}"
        for each in diagnosis.milestones
    )
    after = "after the proposed repairs" if diagnosis.repair_order else "as the setup stands"
    return Picture(
        name="milestones",
        title="What holds " + after,
        caption=f"A mark per seed ({seeds}). Dashed: the line to get under. Green dot: reached; orange cross: missed.",
        alt=f"{told}.",
        figure=figure,
    )
