"""`unplateau benchmark`: how often a diagnosis is right, and what it costs a training loop to be looked at."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import OutOption, WorkersOption, heading, progress_bar, results_folder, tell

if TYPE_CHECKING:
    from experiments.benchmarks.observation import Contest
    from experiments.benchmarks.scores import Record


class What(StrEnum):
    """A benchmark."""

    faults = "faults"
    observation = "observation"


SEEDS, PAIRS, HEALTHY, BLOCKS = 1, 60, 120, 40


def benchmark(
    what: Annotated[
        What,
        typer.Argument(
            help="faults: planted faults, pairs of them, and healthy setups. observation: CPU time per training step, "
            "bare and looked at."
        ),
    ],
    subjects: Annotated[
        list[str] | None, typer.Option("--subject", help="Only this healthy subject; repeatable.")
    ] = None,
    faults: Annotated[list[str] | None, typer.Option("--fault", help="Only this fault; repeatable.")] = None,
    seeds: Annotated[int, typer.Option(help="Setups per fault and subject.", min=0)] = SEEDS,
    pairs: Annotated[int, typer.Option(help="Random pairs of faults.", min=0)] = PAIRS,
    healthy: Annotated[int, typer.Option(help="Healthy variants.", min=0)] = HEALTHY,
    out: OutOption = None,
    page: Annotated[Path | None, typer.Option(help="Markdown file for the confusion matrix as well.")] = None,
    workers: WorkersOption = None,
    limit_seconds: Annotated[
        float | None, typer.Option(help="Begin no case after this time; by default all are run.", show_default=False)
    ] = None,
    blocks: Annotated[int, typer.Option(help="Of observation: pairs of steps per way of looking.", min=6)] = BLOCKS,
) -> None:
    """Count how often planted faults are named, or measure what it costs a training loop to be looked at.

    faults: beside them, how often a healthy setup raises an alarm. Every case is written as it is done; the same
    command with the same --out goes on where a stopped run was. Shares come with Wilson's 95 % interval, for the
    subjects that thresholds may be set on and, apart, for the others.
    """
    if what is What.observation:
        changed: dict[str, object] = {
            "subject": subjects,
            "fault": faults,
            "seeds": seeds != SEEDS,
            "pairs": pairs != PAIRS,
        }
        changed |= {"healthy": healthy != HEALTHY, "page": page, "workers": workers, "limit-seconds": limit_seconds}
    else:
        changed = {"blocks": blocks != BLOCKS}
    refuse_any(changed, what)
    folder = results_folder(out, f"benchmark-{what}")
    if what is What.observation:
        measure_observation(folder, blocks)
        return
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


def refuse_any(changed: dict[str, object], what: What) -> None:
    """Raises ValueError for an option that was given and is of the other benchmark."""
    for name, given in changed.items():
        if given:
            raise ValueError(f"--{name} has no meaning for unplateau benchmark {what}; leave it out")


def measure_observation(folder: Path, blocks: int) -> None:
    """Measure, write and show what looking on costs."""
    from experiments.benchmarks import observation

    with progress_bar("training in turns") as advance:
        found = observation.run(pairs=blocks, on_done=advance)
    observation.write(folder, found)
    for model in dict.fromkeys(each.model for each in found):
        heading(f"per step, {model}: bare, looked at, ratio [95 %] by CPU time; ratio by wall time")
        for each in found:
            if each.model == model:
                typer.echo(f"  {in_line(each)}")
    tell("written", folder / "observation.json")


def in_line(one: "Contest") -> str:
    """A way of looking in one line."""
    cpu, wall = one.cpu, one.wall
    figures = f"{cpu.bare_ms:6.1f} ms  {cpu.looked_at_ms:6.1f} ms  {cpu.ratio:.3f} [{cpu.low:.3f}, {cpu.high:.3f}]"
    return f"{one.looks:<32} {figures}  {wall.ratio:.3f}{'' if one.same_losses else '  the losses differ'}"


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
