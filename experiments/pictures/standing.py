"""The loss among the levels that theory names."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diagnostics.diagnosis import Diagnosis
from diagnostics.levels import ReferenceLevel
from diagnostics.report import ALIKE, ON_A_LEVEL, speaking_levels
from experiments.pictures.drawing import BLUE, INK, SMALL, STYLED, Picture, new_figure

LEVEL_GAP = 0.135  # between two level labels, as a share of the axes' height: two lines of text


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
    figure, axes = new_figure(3.2 + 2.0 * bool(close), rows=1 + bool(close), heights=(3.2, 1.7) if close else None)
    _history(axes[0], history, standing)
    axes[0].set_ylim(*_limits(history, standing, [*levels, *faint]))
    axes[0].set_ylabel("nats per token")
    axes[0].set_title("training loss, reference levels")
    _label_levels(axes[0], [*levels, *faint], faint)
    if close:
        _history(axes[1], history, standing, dots=True)
        axes[1].set_ylim(*_zoom(standing, close))
        axes[1].ticklabel_format(axis="y", useOffset=False)
        axes[1].yaxis.set_major_formatter("{x:.4f}")
        axes[1].set_title("magnified: a dot per step")
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
            fontsize=SMALL,
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


def standing_picture(diagnosis: Diagnosis) -> Picture | None:
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
