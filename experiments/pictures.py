"""Pictures of a diagnosis: small pure functions from plain data to matplotlib figures.

Every figure is five inches wide, so that it can be read on a phone (380 px) as it is and twice as large on a desk. A
function returns None where its data is not there. Nothing is drawn through pyplot: no global state, no window.

Colours: Okabe and Ito 2008, told apart with any kind of colour vision; ink becomes ``currentColor`` in SVG.
"""

import io
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diagnostics.diagnosis import Diagnosis, Milestone
from diagnostics.levels import ReferenceLevel
from diagnostics.report import ALIKE, ON_A_LEVEL, speaking_levels
from diagnostics.trial import Outcome, Regime, Trial

INK = "#14202b"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
LINES = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY)
WIDTH = 5.0  # inches
POINTS = 72 * WIDTH  # width in points: the unit of the tables that are drawn by hand
MODULES_DRAWN = 40
STRONG = 4.0  # a loss that changes by this factor gets the full shade
LEVEL_GAP = 0.135  # between two level labels, as a share of the axes' height: two lines of text
STYLE: dict[Any, Any] = {  # matplotlib's stubs want literal keys
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}

STYLED = matplotlib.rc_context(STYLE)  # as a decorator: the style holds while the function draws
Curves = Mapping[str, Sequence[Sequence[float]]]
"""What a line is called -> its curves, one per seed, each one loss per optimizer step."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with what it is called and what it shows, for those who do not see it too.

    Args:
        name: stable, for file names, anchors and trackers.
        caption: how to read it, with seeds and units.
        alt: what it shows, in one or two sentences with the numbers.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


# --- out -------------------------------------------------------------------------------------------------------------


def svg(figure: Figure, name: str = "picture") -> str:
    """The figure as an ``<svg>`` element for a page: text as text, ink as currentColor, the same bytes every time.

    Args:
        name: keeps the ids of several pictures on one page apart.
    """
    target = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(target, format="svg", metadata=no_metadata)
    element = target.getvalue()[target.getvalue().index("<svg") :]
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    used = set(re.findall(r"#([\w-]+)", element))
    element = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", element)
    return element.replace(INK, "currentColor").strip()


def png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as PNG on white."""
    target = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None})
    return target.getvalue()


def pictures(diagnosis: Diagnosis) -> tuple[Picture, ...]:
    """Every picture whose data this diagnosis has, in the order in which a report shows them."""
    seeds = f"seeds {', '.join(map(str, diagnosis.seeds))}"
    drawn = (
        _standing_picture(diagnosis),
        _switch_picture(diagnosis, seeds),
        _curves_picture(diagnosis, seeds),
        _milestones_picture(diagnosis, seeds),
        _influence_picture(diagnosis),
        *_module_pictures(diagnosis),
    )
    return tuple(picture for picture in drawn if picture is not None)


# --- the loss among the levels ---------------------------------------------------------------------------------------


@STYLED
def standing_loss(
    history: Sequence[float], standing: float, levels: Sequence[ReferenceLevel], faint: Sequence[ReferenceLevel] = ()
) -> Figure | None:
    """The loss history against the reference levels, and a second panel where two levels lie too close to see.

    Args:
        history: training loss per optimizer step; may be empty.
        standing: where it stands; NaN draws no line.
        levels: those that speak about this run.
        faint: others, drawn dotted.
    """
    if not levels and not history:
        return None
    close = [level for level in levels if abs(level.nats - standing) <= ON_A_LEVEL]
    if len(close) < 2 and not any(abs(level.nats - standing) <= ALIKE for level in close):
        close = []
    figure, axes = _figure(3.2 + 2.0 * bool(close), rows=1 + bool(close), heights=(3.2, 1.7) if close else None)
    _history(axes[0], history, standing)
    axes[0].set_ylim(*_limits(history, standing, [*levels, *faint]))
    axes[0].set_ylabel("nats per token")
    axes[0].set_title("training loss and the levels that theory names")
    _label_levels(axes[0], [*levels, *faint], faint)
    if close:
        _history(axes[1], history, standing, dots=True)
        axes[1].set_ylim(*_zoom(standing, close))
        axes[1].ticklabel_format(axis="y", useOffset=False)
        axes[1].yaxis.set_major_formatter("{x:.4f}")
        axes[1].set_title("the same, magnified: one dot per step")
        _label_levels(axes[1], close, (), gap=2.2 * LEVEL_GAP)
    axes[-1].set_xlabel("optimizer step" if history else "")
    return figure


def _history(axes: Axes, history: Sequence[float], standing: float, *, dots: bool = False) -> None:
    if history:
        axes.plot(range(1, len(history) + 1), history, "." if dots else "-", color=BLUE, linewidth=1.1, markersize=2.5)
    else:
        axes.set_xticks([])
    if math.isfinite(standing):
        axes.axhline(standing, color=BLUE, linewidth=2.2, alpha=0.45)


def _limits(history: Sequence[float], standing: float, levels: Sequence[ReferenceLevel]) -> tuple[float, float]:
    """Vertical range that shows every level and the curve, but not a first loss many times as high."""
    values = [level.nats for level in levels] + [standing] * math.isfinite(standing)
    finite = [value for value in history if math.isfinite(value)]
    values = values or finite or [0.0]
    high = max(values)
    top = max([high, *(min(value, 1.25 * high) for value in finite)])
    low = min([*values, *finite])
    margin = 0.06 * (top - low) or 0.5
    return low - margin, top + margin


def _zoom(standing: float, close: Sequence[ReferenceLevel]) -> tuple[float, float]:
    values = [standing, *(level.nats for level in close)]
    margin = max(0.6 * (max(values) - min(values)), 1e-4)
    return min(values) - margin, max(values) + margin


def _label_levels(
    axes: Axes, levels: Sequence[ReferenceLevel], faint: Sequence[ReferenceLevel], gap: float = LEVEL_GAP
) -> None:
    """A line per level and its label beside the axes, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    ordered = sorted(levels, key=lambda level: level.nats)
    places = apart([(level.nats - low) / (high - low) for level in ordered], gap)
    for level, place in zip(ordered, places, strict=True):
        shade = 0.45 if level in faint else 0.9
        axes.axhline(level.nats, color=INK, linewidth=0.8, linestyle=":" if level in faint else "--", alpha=shade)
        axes.annotate(
            f"{level.name}\n{level.nats:.4f}",
            xy=(1, level.nats),
            xycoords=("axes fraction", "data"),
            xytext=(1.06, place),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.6, "alpha": shade, "relpos": (0, 0.5)},
        )


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as a sweep can, so that neighbours are ``gap`` apart; the top stays below 0.96.

    >>> apart([0.1, 0.1, 0.9], 0.25)
    [0.1, 0.35, 0.9]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    ceiling = 0.96
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def _standing_picture(diagnosis: Diagnosis) -> Picture | None:
    speaking = speaking_levels(diagnosis)
    own = [level for level in diagnosis.levels if level.name.startswith("double-softmax")]
    confined = any(level in own for level in speaking)
    faint = [level for level in diagnosis.levels if level not in speaking and (confined or level not in own)]
    figure = standing_loss(diagnosis.history, diagnosis.standing, speaking, faint)
    if figure is None:
        return None
    levels = ", ".join(f"{level.name} {level.nats:.4f}" for level in speaking)
    return Picture(
        name="standing-loss",
        title="Where the loss stands",
        caption="Blue: the training loss. Dashed: levels that a loss can rest on. Dotted: levels for comparison.",
        alt=f"The loss stands at {diagnosis.standing:.4f} nats per token. Levels: {levels}.",
        figure=figure,
    )


# --- repair only this, repair all but this ---------------------------------------------------------------------------


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
    honest = _honest_unit(diagnosis)[1]
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


def _honest_unit(diagnosis: Diagnosis) -> tuple[str, Callable[[Outcome], float]]:
    """Bits per byte where every run on fresh batches has them (they compare vocabularies), otherwise nats per token."""
    fresh = [run.outcome for run in diagnosis.runs if run.outcome.regime == "fresh batches"]
    if fresh and all(outcome.bits_per_byte is not None or outcome.failure for outcome in fresh):
        return "bits per byte", lambda outcome: _or_nan(outcome.bits_per_byte)
    return "nats per token", lambda outcome: _or_nan(outcome.honest)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


@STYLED
def switch_table(rows: Sequence[SwitchRow]) -> Figure | None:
    """The table of single repairs as a picture: blue where the loss falls, orange where it rises.

    Changes are against the row "nothing" of the same column; a change within what a seed alone does is left unshaded.
    """
    if not rows:
        return None
    head, row_height, left, cell = 48.0, 42.0, 4.0, (POINTS - 8) / 6
    height = head + row_height * len(rows) + 4
    figure, (axes,) = _figure(height / 72, constrained=False)
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
    axes.add_patch(Rectangle(corner, width, 23, facecolor=colour, alpha=strength, linewidth=0))
    x, y = corner[0] + width / 2, corner[1] + 11.5
    if not values:
        axes.text(x, y, "–", ha="center", va="center", fontsize=8, alpha=0.6)  # noqa: RUF001
        return
    mean = statistics.fmean(values)
    axes.text(x, y - 5, _short(mean) if math.isfinite(mean) else "failed", ha="center", va="center", fontsize=9)
    if len(values) > 1 and math.isfinite(mean):
        axes.text(x, y + 6, f"± {_short(statistics.stdev(values))}", ha="center", va="center", fontsize=7.5)


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


def _switch_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    rows = switch_rows(diagnosis)
    figure = switch_table(rows)
    if figure is None:
        return None
    unit = _honest_unit(diagnosis)[0]
    told = "; ".join(f"{row.label}: {', '.join(_mean(values) for values in row.cells)}" for row in rows)
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


# --- curves ----------------------------------------------------------------------------------------------------------


@STYLED
def loss_curves(curves: Curves, *, line: float | None = None, title: str = "loss") -> Figure | None:
    """Loss per optimizer step: the mean over seeds, and the band between the lowest and the highest seed.

    Args:
        line: a loss to get under, drawn dashed.
    """
    drawn = {name: [curve for curve in each if curve] for name, each in curves.items()}
    drawn = {name: each for name, each in drawn.items() if each}
    if not drawn:
        return None
    figure, (axes,) = _figure(2.9 + 0.17 * len(drawn))
    _draw_curves(axes, drawn)
    if line is not None:
        axes.axhline(line, color=INK, linewidth=0.8, linestyle="--")
        axes.annotate(f"{line:g}", (1, line), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=8)
    axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    return figure


def _draw_curves(axes: Axes, curves: Curves) -> None:
    for (name, each), colour in zip(curves.items(), cycle(LINES), strict=False):
        low, mean, high = band(each)
        steps = range(1, len(mean) + 1)
        axes.plot(steps, mean, color=colour, linewidth=1.4, label=f"{name}: {_short(mean[-1])}")
        axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
    if all(value > 0 for each in curves.values() for curve in each for value in curve):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("nats per token")


def band(curves: Sequence[Sequence[float]]) -> tuple[list[float], list[float], list[float]]:
    """Lowest, mean and highest loss per step; a curve that stopped early because it had learned keeps its last loss."""
    length = max(map(len, curves))
    padded = [[*curve, *[curve[-1]] * (length - len(curve))] for curve in curves]
    steps = list(zip(*padded, strict=True))
    return [min(step) for step in steps], [statistics.fmean(step) for step in steps], [max(step) for step in steps]


def one_batch_curves(diagnosis: Diagnosis) -> dict[str, list[tuple[float, ...]]]:
    """Curves on one batch: as it stands, without each cause that holds it up, and with the proposed repairs."""
    fits = [cause.id for cause in diagnosis.confirmed if cause.role in ("holds the loss up", "pins the loss")]
    plan = {"as it stands": frozenset[str]()}
    plan |= {f"without {each}": frozenset([each]) for each in fits[: len(LINES) - 2]}
    plan["with the proposed repairs"] = frozenset(diagnosis.repair_order)
    if plan["with the proposed repairs"] in list(plan.values())[:-1]:
        del plan["with the proposed repairs"]
    return {name: [each.curve for each in diagnosis.outcomes(ids, "one batch")] for name, ids in plan.items()}


def _curves_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    curves = one_batch_curves(diagnosis)
    figure = loss_curves(curves, line=0.05, title="loss on one batch")
    if figure is None:
        return None
    ends = ", ".join(f"{name} {_mean([c[-1] for c in each if c])}" for name, each in curves.items() if any(each))
    return Picture(
        name="one-batch",
        title="One batch, before and after",
        caption=f"Training on one fixed batch. Line: mean over {seeds}; band: from the lowest to the highest seed.",
        alt=f"Loss on one batch after training: {ends} nats per token.",
        figure=figure,
    )


@STYLED
def before_after(trial: Trial, curves: Curves | None = None) -> Figure:
    """A trial as one line per seed from before to after, and under it the curves, where there are any.

    Args:
        curves: such as {"untied": [one curve per seed], "tied": [...]}.
    """
    drawn = {name: each for name, each in (curves or {}).items() if any(map(len, each))}
    figure, axes = _figure(2.6 + 3.0 * bool(drawn), rows=1 + bool(drawn))
    for before, after in zip(trial.before, trial.after, strict=True):
        axes[0].plot([0, 1], [before, after], color=BLUE, marker="o", markersize=4, linewidth=1.2, alpha=0.8)
    axes[0].set(xlim=(-0.25, 1.25), xticks=(0, 1), xticklabels=("before", "after"), title=_wrapped(trial.question))
    axes[0].set_xlabel(f"one line per seed: {', '.join(map(str, trial.seeds))}")
    axes[0].set_ylabel(trial.quantity.replace(" (", "\n("))
    if math.isfinite(trial.reference):
        axes[0].axhline(trial.reference, color=INK, linestyle="--", linewidth=0.8)
    if drawn:
        _draw_curves(axes[1], drawn)
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower left")
    return figure


# --- milestones ------------------------------------------------------------------------------------------------------


@STYLED
def milestone_rows(milestones: Sequence[Milestone]) -> Figure | None:
    """Each milestone as its line and one dot per seed: green where it is reached."""
    shown = [each for each in milestones if any(math.isfinite(value) and value > 0 for value in each.values)]
    if not shown:
        return None
    figure, axes = _figure(0.35 + 0.95 * len(shown), rows=len(shown))
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
        ax.set_title(_wrapped(each.claim), fontsize=9.5)
    return figure


def _log_limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high / low) ** 0.25 if high > low else 2.0
    return low / margin, high * margin


def _decades(axes: Axes) -> float:
    low, high = axes.get_xlim()
    return math.log(high / low)


def _milestones_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    figure = milestone_rows(diagnosis.milestones)
    if figure is None:
        return None
    told = "; ".join(
        f"{each.claim}: {_mean(each.values)} against {_short(each.bound)}, {'reached' if each.reached else 'missed'}"
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


# --- what the probes saw ---------------------------------------------------------------------------------------------


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
    figure, (axes,) = _figure(0.9 + min(3.6, WIDTH * 0.8 * len(sees) / columns))
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


def _influence_picture(diagnosis: Diagnosis) -> Picture | None:
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
    figure, (axes,) = _figure(0.8 + 0.19 * len(values))
    low = min(finite, default=1.0) / 3
    for row, (_, value) in enumerate(values):
        if math.isfinite(value) and value > 0:
            axes.plot([low, value], [row, row], color=BLUE, linewidth=5, solid_capstyle="butt", alpha=0.75)
        else:
            axes.annotate(
                "exactly 0" if value == 0 else str(value), (low, row), fontsize=7.5, color=VERMILION, va="center"
            )
    axes.set_xscale("log")
    axes.set(xlim=(low, 2 * max(finite, default=1.0)), ylim=(len(values) - 0.4, -0.6), xlabel=unit, title=title)
    axes.set_yticks(range(len(values)), [_shortened(name) for name, _ in values], fontsize=7.5)
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


def _module_pictures(diagnosis: Diagnosis) -> Iterator[Picture]:
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
            alt=f"{each.title}: {len(values)} modules from {_short(min(numbers))} to {_short(max(numbers))}.",
            figure=figure,
        )


# --- shared ----------------------------------------------------------------------------------------------------------


def _figure(
    height: float, rows: int = 1, heights: tuple[float, ...] | None = None, *, constrained: bool = True
) -> tuple[Figure, list[Axes]]:
    """An empty figure of the house width and its axes, from top to bottom."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained" if constrained else None)
    grid = figure.subplots(rows, 1, squeeze=False, height_ratios=heights)
    return figure, list(grid[:, 0])


def _short(value: float) -> str:
    """Three figures, without an exponent where four characters are enough."""
    return f"{value:.2f}" if 1 <= abs(value) < 100 else f"{value:.3g}"


def _mean(values: Sequence[float]) -> str:
    return _short(statistics.fmean(values)) if values else "not run"


def _shortened(name: str, head: int = 18, tail: int = 12) -> str:
    """The name with its middle left out, where it is too long: both ends tell modules apart."""
    return name if len(name) <= head + tail + 2 else f"{name[:head]}..{name[-tail:]}"


def _wrapped(text: str, width: int = 58) -> str:
    """The text on two lines at most, broken at a space."""
    place = text.rfind(" ", 0, width) if len(text) > width else -1
    return text if place < 0 else f"{text[:place]}\n{text[place + 1 :]}"
