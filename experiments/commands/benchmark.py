"""`unplateau benchmark`: how often a diagnosis is right, counted."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import OutOption, WorkersOption, heading, progress_bar, results_folder, tell

if TYPE_CHECKING:
    from experiments.benchmarks.scores import Record


class What(StrEnum):
    """A benchmark."""

    faults = "faults"


def benchmark(
    what: Annotated[What, typer.Argument(help="faults: planted faults, pairs of them, and healthy setups.")],
    subjects: Annotated[
        list[str] | None, typer.Option("--subject", help="Only this healthy subject; repeatable.")
    ] = None,
    faults: Annotated[list[str] | None, typer.Option("--fault", help="Only this fault; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(help="Setups per fault and subject.", min=0)] = 1,
    pairs: Annotated[int, typer.Option(help="Random pairs of faults.", min=0)] = 60,
    healthy: Annotated[int, typer.Option(help="Healthy variants.", min=0)] = 120,
    out: OutOption = None,
    page: Annotated[Path | None, typer.Option(help="Markdown file for the confusion matrix as well.")] = None,
    workers: WorkersOption = None,
    limit_seconds: Annotated[
        float | None, typer.Option(help="Begin no case after this time; by default all are run.", show_default=False)
    ] = None,
) -> None:
    """Count how often planted faults are named.

    Beside them, how often a healthy setup raises an alarm. Every case is written as it is done; the same command with
    the same --out goes on where a stopped run was. Shares come with Wilson's 95 % interval, for the subjects that
    thresholds may be set on and, apart, for the others.
    """
    from diagnostics.faults import CATALOGUE
    from diagnostics.workers import workers_available
    from experiments.benchmarks import faults as measured
    from experiments.benchmarks.cases import CALIBRATION, REPORTED

    plan = measured.Plan(
        subjects=tuple(subjects or (*CALIBRATION, *REPORTED)),
        faults=tuple(faults or (fault.id for fault in CATALOGUE)),
        seeds=seeds,
        pairs=pairs,
        healthy=healthy,
    )
    folder = results_folder(out, f"benchmark-{what}")
    with progress_bar("diagnosing") as advance:
        records = measured.run(
            plan, folder, workers=workers or workers_available(), limit_seconds=limit_seconds, on_done=advance
        )
    halves = {
        "subjects for calibration": [record for record in records if record.subject in CALIBRATION],
        "reported subjects": [record for record in records if record.subject in REPORTED],
    }
    measured.write(folder, halves, page)
    for name, half in halves.items():
        show(name, half)
    tell("written", f"{folder}: cases.jsonl, figures.json, confusion.md")


def show(name: str, records: list["Record"]) -> None:
    """The figures of one half."""
    from experiments.benchmarks.scores import in_words, seconds_per_diagnosis, shares

    if not records:
        return
    heading(f"{name}: {', '.join(sorted({record.subject for record in records}))}")
    for one in shares(records):
        if one.of:
            typer.echo(f"  {in_words(one)}")
    median, low, high = seconds_per_diagnosis(records)
    typer.echo(f"  {'seconds per diagnosis':<52} {median:.1f}  [5 to 95 %: {low:.1f} to {high:.1f}]")
    crashed = [record for record in records if record.carried and record.error]
    for record in crashed:
        typer.echo(f"  crashed: {record.key}: {record.error}")
