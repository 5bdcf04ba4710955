"""`unplateau runs`: the runs on this disk, how they stand and what they came to."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import console, tell

if TYPE_CHECKING:
    from rich.table import Table

    from experiments.run import Run

DAY_SECONDS = 86400


class State(StrEnum):
    """How a run stands."""

    running = "running"
    finished = "finished"
    interrupted = "interrupted"
    failed = "failed"
    killed = "killed"


class Order(StrEnum):
    """What comes first."""

    newest = "newest"
    best = "best"
    name = "name"


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs, searched to any depth.")] = Path("runs"),
    state: Annotated[
        list[State] | None, typer.Option(help="Only runs that stand so; repeatable.", show_default=False)
    ] = None,
    older: Annotated[
        float | None, typer.Option(help="Only runs that wrote nothing for so many days.", min=0, show_default=False)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of the best value; by default val/bits_per_byte.", show_default=False)
    ] = None,
    sort: Annotated[Order, typer.Option(help="What comes first.")] = Order.newest,
    limit: Annotated[int, typer.Option(help="Runs to list; 0: all.", min=0)] = 50,
    table: Annotated[
        Path | None, typer.Option(help="Write them to this .csv or .parquet file instead.", show_default=False)
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Tell what removing the chosen runs would free; needs --state or --older.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: remove them.")] = False,
) -> None:
    """List the runs on this disk.

    State, age and best value of each; a run whose process is gone counts as killed. --prune removes what a run wrote
    and nothing else, never a run that is on, and only with --yes.
    """
    from experiments.runs import local_runs

    refuse_unclear_prune(prune=prune, yes=yes, chosen=bool(state) or older is not None)
    found = local_runs(folder)
    chosen = [run for run in found.runs if (not state or run.state in state) and is_older(run, older)]
    by = metric_of(found.runs, metric)
    for line in found.left_out:
        typer.echo(f"left out    {line}", err=True)
    if table is not None:
        export(chosen, by, table)
        tell("written", table)
    elif prune:
        pruned(chosen, remove=yes)
    else:
        show(ordered(chosen, by, sort), by, folder, limit)


def refuse_unclear_prune(*, prune: bool, yes: bool, chosen: bool) -> None:
    """Nothing is removed by mistake: --prune needs to be told which runs, --yes that it is meant."""
    if yes and not prune:
        raise ValueError("--yes goes with --prune; nothing is removed without it")
    if prune and not chosen:
        raise ValueError("--prune needs --state or --older to say which runs, such as --state killed --older 7")


def is_older(run: "Run", days: float | None) -> bool:
    """Whether a run has written nothing for so many days."""
    return days is None or time.time() - run.last_written >= days * DAY_SECONDS


def metric_of(found: Sequence["Run"], wished: str | None) -> str | None:
    """The metric of the best value; None where no run has logged one yet.

    Raises:
        ValueError: no run has the metric that was wished for; the message names the nearest.
    """
    from experiments.runs import ranked_by
    from experiments.settings import did_you_mean

    counts = Counter(metric for run in found for metric in run.metrics)
    if wished is not None and wished not in counts:
        raise ValueError(f"no run here measured {wished!r}{did_you_mean(wished, sorted(counts))}")
    return wished or (ranked_by(counts) if counts else None)


def ordered(chosen: Sequence["Run"], metric: str | None, order: Order) -> list["Run"]:
    """The runs, what is asked for first; those without a value come last."""
    from experiments.run import larger_is_better

    if order == Order.name:
        return sorted(chosen, key=lambda run: run.where)
    if order == Order.newest or metric is None:
        return sorted(chosen, key=lambda run: run.last_written, reverse=True)
    sign = -1 if larger_is_better(metric) else 1
    best = {id(run): run.best(metric) for run in chosen}
    return sorted(chosen, key=lambda run: (math.isnan(best[id(run)]), sign * best[id(run)]))


def show(chosen: Sequence["Run"], metric: str | None, folder: Path, limit: int) -> None:
    """The list, and how many more there are."""
    shown = chosen[:limit] if limit else chosen
    console().print(listing(shown, metric, folder))
    if len(shown) < len(chosen):
        more = len(chosen) - len(shown)
        tell("more", f"{more:,} of {len(chosen):,} runs; --limit 0 lists all, --table FILE keeps them")
    tell("runs", f"{len(chosen):,}: {counted(chosen)}" if chosen else "none that was asked for")
    if len(chosen) > 1:
        tell("next", f"unplateau compare {folder}")


def counted(chosen: Sequence["Run"]) -> str:
    """How many stand how."""
    return ", ".join(f"{count} {each}" for each in State if (count := sum(run.state == each for run in chosen)))


def listing(shown: Sequence["Run"], metric: str | None, folder: Path) -> "Table":
    """A row for each run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("run", overflow="fold")
    found.add_column("state")
    for column in ("age", "steps", f"best {metric}" if metric else "best"):
        found.add_column(column, justify="right")
    for run in shown:
        best = run.best(metric) if metric else math.nan
        wished = run.config.get("train.steps")
        is_short = isinstance(wished, int) and wished != run.steps
        steps = f"{run.steps:,} of {wished:,}" if is_short else f"{run.steps:,}"
        cells = (below(run, folder), run.state, age(time.time() - run.began), steps)
        found.add_row(*map(Text, cells), "-" if math.isnan(best) else f"{best:.4g}")
    return found


def below(run: "Run", folder: Path) -> str:
    """The path of a run below the folder that is listed."""
    path = Path(run.where)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) and path != folder else str(path)


def age(seconds: float) -> str:
    """A time in its largest unit.

    >>> age(7), age(4000), age(3 * 86400)
    ('7 s', '67 min', '3 d')
    """
    for name, size in (("d", DAY_SECONDS), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (name == "min" and seconds >= size):
            return f"{seconds / size:.0f} {name}"
    return f"{max(0, seconds):.0f} s"


def export(chosen: Sequence["Run"], metric: str | None, path: Path) -> None:
    """All of them as a table, with their settings."""
    from experiments.compare import runs_frame, write_table

    write_table(runs_frame(chosen, metrics=[metric] if metric else []), path)


def pruned(chosen: Sequence["Run"], *, remove: bool) -> None:
    """Say what would go and how much that frees; remove it if that is meant. A run that is on stays."""
    from experiments import runs

    gone = [run for run in chosen if run.state != "running" and runs.is_record(Path(run.where))]
    freed = sum(runs.size_bytes(Path(run.where)) for run in gone)
    for run in gone:
        whole = not remove or runs.remove(Path(run.where))
        verb = "removed" if remove else "to go"
        tell(verb, run.where if whole else f"{run.where}: what the run wrote; other files are in it and stay")
    tell("freed" if remove else "would free", f"{freed / 1e6:.1f} MB in {len(gone):,} runs")
    if len(gone) < len(chosen):
        tell("kept", f"{len(chosen) - len(gone):,} that are on, or no records of ours")
    if gone and not remove:
        tell("next", "the same with --yes removes them")
