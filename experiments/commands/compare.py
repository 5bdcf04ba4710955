"""`unplateau compare`: what differs between runs, and which is better."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import console, heading, paragraph, tell

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from experiments.compare import Comparison

COLUMNS_SHOWN = 6  # settings that fit beside the results; of a few runs with more, the table stands on its side
RUNS_ASIDE = 5
ROWS_SHOWN = 20
FAILED = 1


class Axis(StrEnum):
    """What curves are aligned on."""

    tokens = "tokens"
    step = "step"
    seconds = "seconds"


class Value(StrEnum):
    """Which value of a curve counts."""

    best = "best"
    last = "last"


def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A record, a folder of records, a W&B offline directory, or a W&B path: ENTITY/PROJECT/ID, "
            "ENTITY/PROJECT?group=NAME, ENTITY/PROJECT?config.optim.lr=0.001.",
        ),
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            "-m",
            help="What counts; by default val/bits_per_byte, which compares different vocabularies.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[Value, typer.Option(help="Which value of the curve counts.")] = Value.best,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="The run or group that the others are told against; by default the first.", show_default=False
        ),
    ] = None,
    over: Annotated[str, typer.Option(help="The setting that only repeats a run.")] = "seed",
    axis: Annotated[Axis, typer.Option(help="What curves are aligned on.")] = Axis.tokens,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with interactive curves, one file.", show_default=False)
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Write all settings and results, .csv or .parquet.", show_default=False)
    ] = None,
    fail_if: Annotated[
        str | None,
        typer.Option(
            help="End with exit code 1 where this holds for a group, such as 'val/bits_per_byte > 1.02 * baseline'.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare runs: what differs, which is better, where they part.

    Runs with the same settings but the seed are a group. Groups with the same seeds are compared pair by pair, others
    by Welch's test; differences come with their 95 % interval, or with the number of seeds that would tell.
    """
    from experiments.compare import compare as compared
    from experiments.compare import load_runs, write_table
    from experiments.record import write_text

    frames = load_runs(*sources)
    comparison = compared(frames, metric=metric, by=by.value, over=over, axis=axis.value, baseline=baseline)
    failed = [] if fail_if is None else judged(comparison, fail_if)
    show(comparison)
    if html is not None:
        from experiments.compare_page import compare_page

        write_text(html, compare_page(comparison))
        tell("page", html)
    if table is not None:
        write_table(frames.runs, table)
        tell("written", table)
    if fail_if is not None:
        tell_failures(failed, fail_if)
    if failed:
        raise typer.Exit(FAILED)


def judged(comparison: "Comparison", text: str) -> list[str]:
    """A line for each group that fails; raises ValueError for a condition that is none."""
    from experiments.compare import failures
    from experiments.condition import parse

    return failures(comparison, parse(text, comparison.frames.runs["last"].columns))


def tell_failures(failed: Sequence[str], text: str) -> None:
    """What the check came to."""
    for line in failed:
        tell("failed", line)
    tell("check", f"{text}: {f'holds for {len(failed)}' if failed else 'does not hold, all is well'}")


def show(comparison: "Comparison") -> None:
    """Tables, sentences and notes."""
    from experiments.run import unit

    console().print(runs_table(comparison))
    if len(comparison.results) > ROWS_SHOWN:
        tell("more", f"{len(comparison.results) - ROWS_SHOWN:,} runs; --table FILE keeps all")
    if len(comparison.groups) < len(comparison.results):
        heading(f"groups over {comparison.over}: {comparison.by} {comparison.metric}, {unit(comparison.metric)}")
        console().print(groups_table(comparison))
    for sentence in sentences(comparison):
        paragraph(f"- {sentence}", indent=0)
    for note in comparison.notes:
        paragraph(f"note: {note}", indent=0)


def sentences(comparison: "Comparison") -> list[str]:
    """What can be said of every group: which is better, then where the curves part."""
    return [*(each.sentence for each in comparison.contrasts), *(each.sentence for each in comparison.partings)]


def runs_table(comparison: "Comparison") -> "Table":
    """A row for each run; a column for each where few runs differ in much."""
    import pandas as pd

    from experiments.compare import short_names
    from experiments.run import shown

    runs = best_first(comparison)[:ROWS_SHOWN]
    aside = len(runs) <= RUNS_ASIDE and len(comparison.differing) > COLUMNS_SHOWN
    settings = comparison.settings.loc[runs, :].iloc[:, : None if aside else COLUMNS_SHOWN].map(shown)
    results = comparison.results.loc[runs]
    outcome = {
        "state": results["state"],
        "steps": results["steps"].map("{:,}".format),
        f"best {comparison.metric}": results["best"].map("{:.4g}".format),
        "last": results["last"].map("{:.4g}".format),
    }
    names = list(settings.columns) if aside else short_names(settings.columns)
    cells = pd.concat([settings, pd.DataFrame(outcome)], axis=1)
    cells.columns = pd.Index([*names, *outcome])
    if not aside and names and all("=" in run and "(" not in run and "#" not in run for run in runs):
        return filled(cells.set_index(names[0]), names[0])  # the settings say which run it is
    return filled(cells.T if aside else cells, "setting" if aside else "run")


def groups_table(comparison: "Comparison") -> "Table":
    """A row for each group."""
    groups = comparison.groups.reindex([comparison.baseline, *(each.group for each in comparison.contrasts)])
    cells = groups.map(lambda value: f"{value:.4g}")
    cells["spread"] = cells["spread"].replace("nan", "-")
    return filled(cells, "group")


def best_first(comparison: "Comparison") -> "pd.Index":
    """The runs in the order of merit where they are too many to be shown whole; otherwise as they came."""
    from experiments.run import larger_is_better

    results = comparison.results
    if len(results) <= ROWS_SHOWN:
        return results.index
    return results.sort_values(comparison.by, ascending=not larger_is_better(comparison.metric)).index


def filled(cells: "pd.DataFrame", corner: str) -> "Table":
    """A frame of text as a table of the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(corner, overflow="fold")
    for column in cells.columns:
        table.add_column(Text(str(column)), justify="right", overflow="fold")
    for name, row in zip(cells.index, cells.itertuples(index=False, name=None), strict=True):
        table.add_row(Text(str(name)), *(Text(str(cell)) for cell in row))
    return table
