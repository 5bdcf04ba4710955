"""Curves and trials: before and after, with the spread over seeds."""

import math
import statistics
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diagnostics.diagnosis import Diagnosis, Role
from diagnostics.trial import Regime, Trial
from experiments.pictures.drawing import (
    BLUE,
    INK,
    LINES,
    SMALL,
    STYLED,
    Curves,
    Picture,
    mean,
    new_figure,
    short,
    wrapped,
)

DECADE = 10  # losses that span less are drawn on a plain scale


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
    figure, (axes,) = new_figure(2.9 + 0.17 * len(drawn))
    _draw_curves(axes, drawn)
    if line is not None:
        axes.axhline(line, color=INK, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{line:g}", (1, line), xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=SMALL
        )
    axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    return figure


def _draw_curves(axes: Axes, curves: Curves) -> None:
    for (name, each), colour in zip(curves.items(), cycle(LINES), strict=False):
        low, middle, high = band(each)
        steps = range(1, len(middle) + 1)
        axes.plot(steps, middle, color=colour, linewidth=1.4, label=f"{name}: {short(middle[-1])}")
        axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
    losses = [value for each in curves.values() for curve in each for value in curve]
    if all(value > 0 for value in losses) and max(losses) > DECADE * min(losses):
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


FITS: tuple[Role, ...] = ("holds the loss up", "pins the loss", "slows learning")


def one_batch_curves(diagnosis: Diagnosis) -> dict[str, list[tuple[float, ...]]]:
    """Curves on one batch: as it stands, without each cause that holds it up, and with the proposed repairs."""
    fits = [cause.id for cause in diagnosis.confirmed if cause.role in FITS]
    plan = {"as it stands": frozenset[str]()}
    plan |= {f"without {each}": frozenset([each]) for each in fits[: len(LINES) - 2]}
    return _curves(diagnosis, plan, "one batch")


def fresh_curves(diagnosis: Diagnosis) -> dict[str, list[tuple[float, ...]]]:
    """Training curves on fresh batches: as it stands, and with the proposed repairs. Empty where there are none."""
    if not diagnosis.repair_order:
        return {}
    return _curves(diagnosis, {"as it stands": frozenset[str]()}, "fresh batches")


def _curves(
    diagnosis: Diagnosis, plan: dict[str, frozenset[str]], regime: Regime
) -> dict[str, list[tuple[float, ...]]]:
    repairs = frozenset(diagnosis.repair_order)
    if repairs not in plan.values():
        plan = plan | {"with the proposed repairs": repairs}
    return {name: [each.curve for each in diagnosis.outcomes(ids, regime)] for name, ids in plan.items()}


def one_batch_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    """One batch before and after, where the examination trained on one."""
    curves = one_batch_curves(diagnosis)
    figure = loss_curves(curves, line=0.05, title="loss on one batch")
    if figure is None:
        return None
    return Picture(
        name="one-batch",
        title="One batch, before and after",
        caption=(
            f"Training on one fixed batch; a curve ends where it is learned. Line: mean over {seeds}; band: from the "
            "lowest to the highest seed."
        ),
        alt=f"Loss on one batch after training: {_ends(curves)} nats per token.",
        figure=figure,
    )


def fresh_picture(diagnosis: Diagnosis, seeds: str) -> Picture | None:
    """The training loss before and after all repairs: a leak that is gone makes it higher, and honest."""
    curves = fresh_curves(diagnosis)
    figure = loss_curves(curves, title="training loss on fresh batches")
    if figure is None:
        return None
    return Picture(
        name="fresh-batches",
        title="Training, before and after",
        caption=(
            f"Training from scratch, a new batch in each step. Line: mean over {seeds}; band: from the lowest to the "
            "highest seed; runs that stand still are kept short. With a leak, this loss is lower than it should be."
        ),
        alt=f"Training loss on fresh batches in the end: {_ends(curves)} nats per token.",
        figure=figure,
    )


def _ends(curves: Curves) -> str:
    return ", ".join(f"{name} {mean([c[-1] for c in each if c])}" for name, each in curves.items() if any(each))


@STYLED
def before_after(trial: Trial, curves: Curves | None = None) -> Figure:
    """A trial as one line per seed from before to after, and under it the curves, where there are any.

    Args:
        curves: such as {"untied": [one curve per seed], "tied": [...]}.
    """
    drawn = {name: each for name, each in (curves or {}).items() if any(map(len, each))}
    figure, axes = new_figure(2.6 + 3.0 * bool(drawn), rows=1 + bool(drawn))
    for before, after in zip(trial.before, trial.after, strict=True):
        axes[0].plot([0, 1], [before, after], color=BLUE, marker="o", markersize=4, linewidth=1.2, alpha=0.8)
    axes[0].set(xlim=(-0.25, 1.25), xticks=(0, 1), xticklabels=("before", "after"), title=wrapped(trial.question))
    axes[0].set_xlabel(f"one line per seed: {', '.join(map(str, trial.seeds))}")
    axes[0].set_ylabel(trial.quantity.replace(" (", "\n("))
    if math.isfinite(trial.reference):
        axes[0].axhline(trial.reference, color=INK, linestyle="--", linewidth=0.8)
    if drawn:
        _draw_curves(axes[1], drawn)
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower left")
    return figure
