"""What the probes saw: which edit moves which output, and numbers by depth."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from diagnostics.diagnosis import Diagnosis
from experiments.pictures.drawing import (
    BLUE,
    INK,
    SMALL,
    STYLED,
    VERMILION,
    WIDTH,
    Picture,
    new_figure,
    short,
    shortened,
)

MODULES_DRAWN = 40
DECADE = 30  # a range below this factor gets ticks at 1, 2 and 5 instead of powers of ten


@STYLED
def influence(sees: Sequence[Sequence[bool]], edited: Sequence[int], shift: int, *, title: str = "") -> Figure | None:
    """Which edited token moves which prediction: a row per edited position, a column per predicted one.

    Args:
        sees: ``sees[row][column]``: the prediction moves.
        edited: position of each row.
        shift: k, where position i holds target i - k; a prediction may know only targets before its own.
    """
    if not sees or not sees[0]:
        return None
    columns = len(sees[0])
    figure, (axes,) = new_figure(0.9 + min(3.6, WIDTH * 0.8 * len(sees) / columns))
    for row, position in enumerate(edited):
        for column in range(columns):
            forbidden = position - shift >= column
            moved = sees[row][column]
            colour, strength = (VERMILION, 0.9) if forbidden and moved else (INK, 0.5 if moved else 0.06)
            axes.add_patch(
                Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, color=colour, alpha=strength, linewidth=0)
            )
    axes.set(xlim=(-0.6, columns - 0.4), ylim=(len(sees) - 0.4, -0.6), title=title)
    axes.set_yticks(range(len(sees)), [str(position) for position in edited])
    axes.set_xticks(range(0, columns, max(1, columns // 10)))
    axes.set(xlabel="predicted position whose logits move", ylabel="edited position")
    return figure


def influence_picture(diagnosis: Diagnosis) -> Picture | None:
    reading = diagnosis.reading("token-influence")
    if reading is None or reading.measurement is None or not reading.measurement.sources:
        return None
    source = reading.measurement.sources[-1]
    figure = influence(source.sees, source.edited, source.shift, title=f"edits in {source.source}")
    if figure is None:
        return None
    leaks = sum(
        moved and position - source.shift >= column
        for row, position in zip(source.sees, source.edited, strict=True)
        for column, moved in enumerate(row)
    )
    return Picture(
        name="token-influence",
        title="Which token moves which prediction",
        caption=(
            "Each row: one token is replaced. Dark: this prediction moves, as it may. Orange: it moves although it "
            f"must not know that token yet. Probe token-influence, seed {reading.seed}."
        ),
        alt=f"{leaks} predictions move when a token is edited that they must not know.",
        figure=figure,
    )


@STYLED
def by_module(values: Sequence[tuple[str, float]], *, unit: str, title: str = "") -> Figure | None:
    """One bar per module from input to output, on a logarithmic scale; zeros are marked, not drawn."""
    if not values:
        return None
    finite = [value for _, value in values if math.isfinite(value) and value > 0]
    figure, (axes,) = new_figure(0.8 + 0.2 * len(values))
    low = min(finite, default=1.0) / 3
    for row, (_, value) in enumerate(values):
        if math.isfinite(value) and value > 0:
            axes.plot([low, value], [row, row], color=BLUE, linewidth=5, solid_capstyle="butt", alpha=0.75)
        else:
            axes.annotate(
                "exactly 0" if value == 0 else str(value), (low, row), fontsize=SMALL, color=VERMILION, va="center"
            )
    axes.set_xscale("log")
    if max(finite, default=1.0) < DECADE * low:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    axes.set(xlim=(low, 2 * max(finite, default=1.0)), ylim=(len(values) - 0.4, -0.6), xlabel=unit, title=title)
    axes.set_yticks(range(len(values)), [shortened(name) for name, _ in values], fontsize=SMALL)
    return figure


def merged(
    values: Sequence[tuple[str, float]], combine: Callable[[Sequence[float]], float], most: int = MODULES_DRAWN
) -> list[tuple[str, float]]:
    """The values by module, of as deep a module as leaves at most ``most`` of them.

    >>> merged([("encoder.0.key", 3.0), ("encoder.0.query", 5.0), ("head", 2.0)], max, most=2)
    [('encoder.0', 5.0), ('head', 2.0)]
    """
    names = [name.split(".") for name, _ in values]
    for depth in range(max(map(len, names), default=0), 0, -1):
        groups: dict[str, list[float]] = {}
        for name, (_, value) in zip(names, values, strict=True):
            groups.setdefault(".".join(name[:depth]) or "model", []).append(value)
        if len(groups) <= most or depth == 1:
            return [(name, combine(each)) for name, each in groups.items()]
    return []


@dataclass(frozen=True, kw_only=True)
class ByModule:
    """How one number per module is read off a probe's measurement."""

    probe: str
    title: str
    unit: str
    take: Callable[[Any], list[tuple[str, float]]]


def _norms(measurement: Any) -> list[tuple[str, float]]:
    names = [name for name, _ in measurement.modules]
    return merged(list(zip(names, measurement.over_steps[0], strict=True)) if measurement.over_steps else [], _length)


def _length(norms: Sequence[float]) -> float:
    return math.sqrt(sum(norm * norm for norm in norms))


def _ratios(measurement: Any) -> list[tuple[str, float]]:
    ratios = [(each.name.removesuffix(".weight"), each.median) for each in measurement.matrices]
    return merged(ratios, statistics.median)


def _sizes(measurement: Any) -> list[tuple[str, float]]:
    return merged(measurement.depth, statistics.fmean)


BY_MODULE = (
    ByModule(
        probe="gradient-norms", title="Gradient norms by depth", unit="norm of the gradient, first step", take=_norms
    ),
    ByModule(
        probe="update-ratios", title="Update-to-weight ratios", unit="one update over the weights, median", take=_ratios
    ),
    ByModule(
        probe="stream-scale", title="Size of the stream by depth", unit="root mean square of an entry", take=_sizes
    ),
)


def module_pictures(diagnosis: Diagnosis) -> Iterator[Picture]:
    for each in BY_MODULE:
        reading = diagnosis.reading(each.probe)
        values = each.take(reading.measurement) if reading is not None and reading.measurement is not None else []
        figure = by_module(values, unit=each.unit)
        if figure is None or reading is None:
            continue
        numbers = [number for _, number in values]
        yield Picture(
            name=each.probe,
            title=each.title,
            caption=f"From input (top) to output (bottom). Probe {each.probe}, seed {reading.seed}.",
            alt=f"{each.title}: {len(values)} modules from {short(min(numbers))} to {short(max(numbers))}.",
            figure=figure,
        )
