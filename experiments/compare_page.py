"""A comparison as one HTML file that opens offline, with curves that answer to the mouse.

plotly draws: its own JavaScript stands in the page, so that the page makes no request. What is said comes from
`experiments.compare`; this file only lays it out. plotly is imported here only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from markupsafe import Markup

from experiments.compare import Comparison, short_names
from experiments.layout import ENVIRONMENT
from experiments.parting import smooth
from experiments.run import AXES, larger_is_better, shown, unit

MOST_CURVES = 60  # runs whose curves are drawn: of more, the best; a page of more cannot be read
POINTS = 400  # of a curve that are drawn
GRID = 120  # points of a group's mean
SMOOTHED = 0.05  # share of a curve that its moving average reaches over
MOST_ROWS = 300  # of the table of runs
MOST_LINES = 5000  # of the parallel coordinates
MOST_SETTINGS = 10  # axes of the parallel coordinates
FIGURES = 6  # that a number keeps in the page
LOGARITHMIC = 30  # a setting whose largest value is so many times its smallest has a logarithmic axis
COLOURS = ("#3a86c8", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
"""Okabe and Ito's, which people with colour-blind eyes tell apart, at a lightness that black and white paper bear."""

SCALE = ("#3a86c8", "#cc79a7", "#e69f00")  # of results, worst to best; seen on black and on white paper


@dataclass(frozen=True)
class Rows:
    """A table of the page: its columns, and its cells as text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def compare_page(comparison: Comparison) -> str:
    """The comparison as one self-contained HTML document."""
    from plotly.offline import get_plotlyjs

    return ENVIRONMENT.get_template("compare.html.j2").render(
        comparison=comparison,
        drawn=drawn(comparison),
        curves=curves(comparison),
        coordinates=coordinates(comparison),
        templates={scheme: template(scheme) for scheme in ("light", "dark")},
        groups=groups(comparison),
        runs=runs(comparison),
        unit=unit,
        most_rows=MOST_ROWS,
        plotly=Markup(get_plotlyjs()),  # a script of the library, as it is
    )


def drawn(comparison: Comparison) -> list[str]:
    """The runs whose curves are drawn, as they came: all, or the best."""
    results = comparison.results
    ranked = results[comparison.by].sort_values(ascending=not larger_is_better(comparison.metric))
    chosen = set(ranked.index[:MOST_CURVES])
    return [str(label) for label in results.index if label in chosen]


def curves(comparison: Comparison) -> dict[str, Any]:
    """What the page's script draws: runs with their colours, and for each metric their raw and smooth curves."""
    names = drawn(comparison)
    frame = comparison.frames.curves
    frame = frame[frame["run"].isin(names)]
    axes = [name for name in AXES if name in frame and frame[name].notna().any()]
    metrics = [str(name) for name in frame if name not in ("run", *AXES) and frame[name].notna().any()]
    groups = comparison.results["group"]
    colour = {group: COLOURS[place % len(COLOURS)] for place, group in enumerate(dict.fromkeys(groups[names]))}
    lines = {metric: by_run(frame, metric, axes, names) for metric in metrics}
    return {
        "runs": [{"label": name, "group": groups[name], "colour": colour[groups[name]]} for name in names],
        "axes": axes,
        "axis": comparison.axis,
        "metrics": metrics,
        "metric": comparison.curve,
        "curves": lines,
        "means": {metric: means(lines[metric], list(groups[names]), axes) for metric in metrics},
    }


def by_run(frame: pd.DataFrame, metric: str, axes: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """The curve of each run that has one: which run it is, its axes, its values, and its moving average."""
    rows = frame[np.isfinite(frame[metric])]
    place = {name: number for number, name in enumerate(names)}
    return [
        {"run": place[str(run)], **thinned(part, metric, axes)}
        for run, part in rows.groupby("run", observed=True, sort=False)
    ]


def means(lines: Sequence[Mapping[str, Any]], groups: Sequence[str], axes: Sequence[str]) -> list[dict[str, Any]]:
    """The mean of each group's smooth curves where all of them are, and one standard deviation above and below.

    Args:
        lines: what `by_run` gives.
        groups: the group of each run.
    """
    found = []
    for group in dict.fromkeys(groups):
        members = [line for line in lines if groups[line["run"]] == group]
        bands = {axis: band([(line[axis], line["smooth"]) for line in members]) for axis in axes}
        if any(bands.values()):
            found.append({"group": group, "run": members[0]["run"], **bands})
    return found


def band(lines: Sequence[tuple[Sequence[float | None], Sequence[float]]]) -> dict[str, list[float | None]] | None:
    """Mean and spread of curves on a grid that all of them reach; None for one curve, or where they do not meet."""
    if len(lines) < 2 or any(None in at for at, _ in lines):
        return None
    begin, end = max(at[0] or 0.0 for at, _ in lines), min(at[-1] or 0.0 for at, _ in lines)
    if begin >= end:
        return None
    grid = np.linspace(begin, end, GRID)
    values = [np.interp(grid, cast(Sequence[float], at), curve) for at, curve in lines]
    mean, spread = np.mean(values, axis=0), np.std(values, axis=0, ddof=1)
    columns = {"x": grid, "mean": mean, "low": mean - spread, "high": mean + spread}
    return {name: [rounded(float(value)) for value in column] for name, column in columns.items()}


def thinned(part: pd.DataFrame, metric: str, axes: Sequence[str]) -> dict[str, list[float | None]]:
    """One curve in at most POINTS points; its moving average is of all of them."""
    average = smooth(part[metric], window=round(SMOOTHED * len(part)))
    chosen = np.unique(np.linspace(0, len(part) - 1, min(len(part), POINTS)).round().astype(int))
    columns = {axis: part[axis] for axis in axes} | {"raw": part[metric], "smooth": average}
    return {name: [rounded(value) for value in column.iloc[chosen]] for name, column in columns.items()}


def rounded(value: float) -> float | None:
    """A number with FIGURES figures; None, which JSON has, where there is none."""
    return float(f"{value:.{FIGURES}g}") if math.isfinite(value) else None


def coordinates(comparison: Comparison) -> dict[str, Any] | None:
    """The parallel coordinates of settings and result as plotly's JSON; None where nothing differs."""
    import plotly.graph_objects as go

    results = comparison.results[np.isfinite(comparison.results[comparison.by])][:MOST_LINES]
    settings = comparison.settings.loc[results.index, list(comparison.differing[:MOST_SETTINGS])]
    if settings.empty or len(results) < 2:
        return None
    names = short_names(map(str, settings.columns))
    axes = [dimension(name, list(settings[key])) for name, key in zip(names, settings.columns, strict=True)]
    result = [float(value) for value in results[comparison.by]]
    line = {"color": result, "colorscale": SCALE, "reversescale": not larger_is_better(comparison.metric)}
    trace = go.Parcoords(
        dimensions=[*axes, {"label": f"{comparison.by} {comparison.metric}", "values": result}], line=line
    )
    return cast(dict[str, Any], go.Figure(trace).to_plotly_json()["data"][0])


def dimension(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """One axis: numbers as they are, over several powers of ten by their logarithm, everything else in steps.

    >>> dimension("norm", ["before", "after"])["ticktext"]
    ['after', 'before']
    """
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        words = sorted({shown(value) for value in values})
        place = {word: float(number) for number, word in enumerate(words)}
        return _ticked(name, [place[shown(value)] for value in values], {place[word]: word for word in words})
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= LOGARITHMIC:
        ticks = {math.log10(number): shown(number) for number in _few(numbers)}
        return _ticked(name, [math.log10(number) for number in numbers], ticks)
    if len(set(numbers)) <= 12:
        return _ticked(name, numbers, {number: shown(number) for number in sorted(set(numbers))})
    return {"label": name, "values": numbers}


def template(scheme: str) -> dict[str, Any]:
    """How plotly draws on light or on dark paper: its own template, on the paper of the page."""
    import plotly.io

    found = plotly.io.templates["plotly_white" if scheme == "light" else "plotly_dark"].to_plotly_json()
    layout = {**found["layout"], "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    return {"layout": layout}


def groups(comparison: Comparison) -> Rows | None:
    """The groups with their mean and spread; None where every run is its own."""
    if len(comparison.groups) == len(comparison.results):
        return None
    cells = comparison.groups[:MOST_ROWS]
    texts = ([name, *map(number, row)] for name, row in zip(cells.index, cells.to_numpy(), strict=True))
    return Rows(["group", *cells.columns], list(texts))


def runs(comparison: Comparison) -> Rows:
    """A row for each run: what differs, how it stands, what it came to, and where it lies."""
    results = comparison.results
    outcome = {
        "state": results["state"],
        "steps": results["steps"].map("{:,}".format),
        f"best {comparison.metric}": results["best"].map(number),
        "last": results["last"].map(number),
        "where": comparison.frames.runs["about"]["where"],
    }
    columns = ["run", *short_names(comparison.differing), *outcome]
    settings = comparison.settings.map(shown).itertuples(index=False, name=None)
    cells = zip(results.index, settings, zip(*outcome.values(), strict=True), strict=True)
    rows = [[str(run), *config, *map(str, result)] for run, config, result in cells][:MOST_ROWS]
    return Rows(columns, rows)


def number(value: float) -> str:
    """A result in four figures.

    >>> number(2.34567), number(3.0), number(float("nan"))
    ('2.346', '3', '-')
    """
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _ticked(name: str, values: Iterable[float], ticks: Mapping[float, str]) -> dict[str, Any]:
    return {"label": name, "values": list(values), "tickvals": list(ticks), "ticktext": list(ticks.values())}


def _few(numbers: Iterable[float]) -> list[float]:
    """Values for the marks of an axis: all of them, or some spread over them."""
    every = sorted(set(numbers))
    return [every[place] for place in np.unique(np.linspace(0, len(every) - 1, min(len(every), 8)).round().astype(int))]
