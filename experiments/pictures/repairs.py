"""Repairs one at a time, and one after the other."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diagnostics.diagnosis import Diagnosis
from diagnostics.report import honest_unit
from diagnostics.trial import Outcome, Regime
from experiments.pictures.drawing import BLUE, INK, ORANGE, POINTS, SMALL, STYLED, Picture, mean, new_figure, short

STRONG = 4.0  # a loss that changes by this factor gets the full shade


@dataclass(frozen=True, kw_only=True)
class SwitchRow:
    """What repairing only one fault, and everything but that one, comes to: one tuple of losses per column.

    The columns are (one batch, train, honest) for "only this", then for "all but this"; one value per seed, empty where
    that run was not made.
    """

    label: str
    cells: tuple[tuple[float, ...], ...]


def switch_rows(diagnosis: Diagnosis) -> tuple[SwitchRow, ...]:
    """The rows of the table of single repairs; the first one is "nothing". Empty where fewer than two were tried."""
    base = diagnosis.base
    known = [cause.finding.fault for cause in (*diagnosis.causes, *diagnosis.deviations)]
    tried = [fault for fault in known if diagnosis.outcomes(frozenset([fault.id]), "one batch")]
    if len(tried) < 2:
        return ()
    honest = _honest(diagnosis)
    columns: tuple[tuple[Regime, Callable[[Outcome], float]], ...]
    columns = (("one batch", _final), ("fresh batches", _final), ("fresh batches", honest))

    def cells(only: frozenset[str], all_but: frozenset[str]) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(take(outcome) for outcome in diagnosis.outcomes(repaired, regime))
            for repaired in (only, all_but)
            for regime, take in columns
        )

    rows = [SwitchRow(label="nothing", cells=cells(frozenset(), base))]
    for fault in sorted(tried, key=lambda fault: (fault.id not in base, fault.repair_rank, fault.id)):
        label = fault.id if fault.id in base else f"{fault.id} (deviation)"
        rows.append(SwitchRow(label=label, cells=cells(frozenset([fault.id]), base ^ {fault.id})))
    return tuple(rows)


def _final(outcome: Outcome) -> float:
    return outcome.final


def _honest(diagnosis: Diagnosis) -> Callable[[Outcome], float]:
    """How an honest loss is read off an outcome, in the unit in which the report tells it."""
    if honest_unit(diagnosis) == "bits per byte":
        return lambda outcome: _or_nan(outcome.bits_per_byte)
    return lambda outcome: _or_nan(outcome.honest)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


@STYLED
def switch_table(rows: Sequence[SwitchRow]) -> Figure | None:
    """The table of single repairs as a picture: blue where the loss falls, orange where it rises.

    Changes are against the row "nothing" of the same column; a change within what a seed alone does is left unshaded.
    """
    if not rows:
        return None
    head, row_height, left, cell = 48.0, 44.0, 4.0, (POINTS - 8) / 6
    height = head + row_height * len(rows) + 4
    figure, (axes,) = new_figure(height / 72, constrained=False)
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, POINTS), ylim=(height, 0))
    axes.axis("off")
    for side, title in enumerate(("repair only this", "repair all but (or also) this")):
        axes.text(left + (3 * side + 1.5) * cell, 14, title, ha="center", fontsize=10, fontweight="bold")
        for place, name in enumerate(("one batch", "train", "honest")):
            axes.text(left + (3 * side + place + 0.5) * cell, 32, name, ha="center", fontsize=9.5)
    for line, row in enumerate(rows):
        top = head + line * row_height
        axes.plot([left, POINTS - left], [top - 6, top - 6], color=INK, linewidth=0.4, alpha=0.5)
        axes.text(left + 1, top + 4, row.label, fontsize=9.5, fontweight="bold" if line == 0 else "normal", va="center")
        for place, values in enumerate(row.cells):
            corner = (left + place * cell + 1, top + 10)
            _switch_cell(axes, corner, cell - 2, values, rows[0].cells[place] if line else ())
    axes.plot([POINTS / 2] * 2, [4, height - 4], color=INK, linewidth=0.8, alpha=0.6)
    return figure


def _switch_cell(
    axes: Axes, corner: tuple[float, float], width: float, values: Sequence[float], base: Sequence[float]
) -> None:
    colour, strength = shade(values, base)
    axes.add_patch(Rectangle(corner, width, 25, facecolor=colour, alpha=strength, linewidth=0))
    x, y = corner[0] + width / 2, corner[1] + 12
    if not values:
        axes.text(x, y, "–", ha="center", va="center", fontsize=SMALL, alpha=0.6)  # noqa: RUF001
        return
    middle = statistics.fmean(values)
    axes.text(x, y - 5, short(middle) if math.isfinite(middle) else "failed", ha="center", va="center", fontsize=9)
    if len(values) > 1 and math.isfinite(middle):
        axes.text(x, y + 6, f"± {statistics.stdev(values):.1g}", ha="center", va="center", fontsize=SMALL)


def shade(values: Sequence[float], base: Sequence[float]) -> tuple[str, float]:
    """Colour and opacity of a change from ``base``: blue for a fall, orange for a rise, 0 within the seeds' noise."""
    if not values or not base or not all(map(math.isfinite, (*values, *base))):
        return INK, 0.0
    now, then = statistics.fmean(values), statistics.fmean(base)
    noise = max(statistics.stdev(each) if len(each) > 1 else 0.0 for each in (values, base))
    if abs(now - then) <= noise or min(now, then) <= 0:
        return INK, 0.0
    strength = min(1.0, abs(math.log(now / then)) / math.log(STRONG)) ** 0.5
    return (BLUE if now < then else ORANGE), 0.6 * strength


def switch_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    rows = switch_rows(diagnosis)
    figure = switch_table(rows)
    if figure is None:
        return None
    unit = honest_unit(diagnosis)
    told = "; ".join(f"{row.label}: {', '.join(mean(values) for values in row.cells)}" for row in rows)
    return Picture(
        name="switch-table",
        title="One repair at a time",
        caption=(
            "Left: the run as it stands with one fault repaired. Right: every fault repaired but that one (for a "
            "deviation: every fault repaired, and that too). "
            "one batch: loss after training on one batch; train: loss on fresh batches (both nats per token); "
            f"honest: held-out loss in the way the model generates ({unit}). Mean ± standard deviation over {seeds}. "
            "Blue: lower than in the first row, where nothing is changed; orange: higher; the stronger the more; no "
            "colour: within what a seed alone does."
        ),
        alt=f"One batch, train and honest loss for repair only this, then for repair all but this. {told}.",
        figure=figure,
    )


# --- one repair after the other --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PathRow:
    """A step on the way of repairs: what is repaired, both losses per seed (empty: not run), and what it reveals."""

    label: str
    one_batch: tuple[float, ...]
    honest: tuple[float, ...]
    reveals: tuple[str, ...] = ()


def path_rows(diagnosis: Diagnosis) -> tuple[PathRow, ...]:
    """A row for each step of the path, the setup as it stands first; per seed where the runs are known."""
    rows, repaired = [], frozenset[str]()
    honest = _honest(diagnosis)
    for place, step in enumerate(diagnosis.path):
        repaired |= {step.repaired} if step.repaired else set()
        fit = tuple(outcome.final for outcome in diagnosis.outcomes(repaired, "one batch"))
        new = tuple(honest(outcome) for outcome in diagnosis.outcomes(repaired, "fresh batches"))
        sign = "+ " if place > 1 else ""
        rows.append(
            PathRow(
                label=f"{sign}{step.repaired}" if step.repaired else "nothing repaired",
                one_batch=_finite(fit) or _known(step.one_batch),
                honest=_finite(new) or _known(step.honest),
                reveals=step.reveals,
            )
        )
    return tuple(rows)


def _finite(values: tuple[float, ...]) -> tuple[float, ...]:
    return values if all(map(math.isfinite, values)) else ()


def _known(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


@STYLED
def repair_path(rows: Sequence[PathRow], unit: str) -> Figure | None:
    """Both losses from top to bottom, one repair more in each row: a line through the means, a dot for each seed.

    Args:
        unit: of the honest loss.
    """
    if len(rows) < 2:
        return None
    head, row_height, half = 34.0, 40.0, POINTS / 2
    tops = [head + place * row_height for place in range(len(rows))]
    height = tops[-1] + row_height + 4
    figure, (axes,) = new_figure(height / 72, constrained=False)
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, POINTS), ylim=(height, 0))
    axes.axis("off")
    for top, row in zip(tops, rows, strict=True):
        axes.plot([4, POINTS - 4], [top - 3, top - 3], color=INK, linewidth=0.4, alpha=0.4)
        axes.text(4, top + 7, row.label, fontsize=9, fontweight="bold" if row is rows[0] else "normal", va="center")
        if row.reveals:
            reveals = f"reveals {', '.join(row.reveals)}"
            axes.text(POINTS - 4, top + 7, reveals, fontsize=SMALL, style="italic", ha="right", va="center")
    middles = [top + 24 for top in tops]
    titles = ("one batch, nats per token", f"honest, {unit}")
    for side, (title, losses) in enumerate(zip(titles, _columns(rows), strict=True)):
        axes.text(4 + side * half, 14, title, fontsize=9, fontweight="bold", va="center")
        _draw_way(axes, losses, middles, left=side * half + 8, width=half - 16)
    return figure


def _columns(rows: Sequence[PathRow]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    return [row.one_batch for row in rows], [row.honest for row in rows]


def _draw_way(
    axes: Axes, losses: Sequence[tuple[float, ...]], middles: Sequence[float], *, left: float, width: float
) -> None:
    """One column: blue where a repair lowers the mean, orange where it raises it, each mean in figures."""
    place = _scale([value for values in losses for value in values], left, width)
    run = [(place(statistics.fmean(values)), y, values) for values, y in zip(losses, middles, strict=True) if values]
    for (x, y, before), (next_x, next_y, values) in pairwise(run):
        colour = ORANGE if shade(values, before)[0] == ORANGE else BLUE
        axes.plot([x, next_x], [y, next_y], color=colour, linewidth=1.2, alpha=0.5)
    for x, y, values in run:
        axes.plot([place(value) for value in values], [y] * len(values), "o", color=INK, markersize=3, alpha=0.35)
        axes.plot([x], [y], "o", color=BLUE, markersize=5)
        right = x < left + 0.6 * width
        told, shift = short(statistics.fmean(values)), 7 if right else -7
        axes.text(x + shift, y, told, fontsize=SMALL, ha="left" if right else "right", va="center")
    for values, y in zip(losses, middles, strict=True):
        if not values:
            axes.text(left, y, "not run", fontsize=SMALL, alpha=0.6, va="center")


def _scale(values: Sequence[float], left: float, width: float) -> Callable[[float], float]:
    """Where a loss stands between left and left + width: on a logarithmic scale where every loss is above zero."""
    measure: Callable[[float], float] = math.log if values and min(values) > 0 else float
    low, high = (measure(edge(values)) if values else 0.0 for edge in (min, max))
    return lambda value: left + width * ((measure(value) - low) / (high - low) if high > low else 0.5)


def path_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    """The way of repairs, where it was run."""
    rows, unit = path_rows(diagnosis), honest_unit(diagnosis)
    figure = repair_path(rows, unit)
    if figure is None:
        return None
    told = "; ".join(f"{row.label}: {mean(row.one_batch)}, {mean(row.honest)}" for row in rows)
    return Picture(
        name="repair-path",
        title="One repair after the other",
        caption=(
            "From top to bottom one repair more, everything above it repaired too. Left: loss after training on one "
            f"batch. Right: held-out loss in the way the model generates ({unit}). Further left is better, on a "
            f"logarithmic scale. Large dot and figure: mean; small dots: {seeds}. Orange: the repair makes it worse."
        ),
        alt=f"One batch and honest loss after each repair. {told}.",
        figure=figure,
    )
