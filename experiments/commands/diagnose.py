"""`unplateau diagnose`: run a recipe, and explain its loss."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import (
    OutOption,
    RecipeOption,
    SetOption,
    WandbOption,
    configured,
    progress_bar,
    results_folder,
    stages,
)
from experiments.config import RunConfig, override

if TYPE_CHECKING:
    from diagnostics.diagnosis import Diagnosis
    from experiments.record import RunRecord


BUDGETS = {"stuck": {"one_batch_steps": 40, "fresh_steps": 160, "alone_steps": 30}}
"""Steps of the trials that a recipe was measured to need (docs/log.md); others take the kernel's defaults."""


def diagnose(
    recipe: RecipeOption = "stuck",
    changes: SetOption = None,
    out: OutOption = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each trial (at least 2).", min=2)] = 3,
    workers: Annotated[
        int | None, typer.Option(help="Trials side by side; by default one per core.", show_default=False, min=1)
    ] = None,
    wandb: WandbOption = "auto",
) -> None:
    """Run a recipe and explain where its loss stands, each cause confirmed by removing it.

    Without options: the stuck run, in about two minutes on two cores. Writes report.html (one file, opens offline),
    report.md, diagnosis.json, the run's record and a Weights & Biases run.
    """
    config = override(configured(recipe, changes, wandb=wandb), {"train.log_every": 1})
    folder = results_folder(out, f"diagnose-{config.name}")
    record = standing_run(config, folder / "run")
    found = examined(config, record, seeds=seeds, workers=workers)
    write_report(found, config, record, folder)
    from experiments.terminal import render

    render(found)
    typer.echo(f"\nreport   {folder / 'report.html'}\ndata     {folder / 'diagnosis.json'}\nrun      {folder / 'run'}")
    typer.echo(f"next     open {folder / 'report.html'} in a browser")


def standing_run(config: RunConfig, folder: Path) -> "RunRecord":
    """Train the recipe to where its loss stands."""
    from diagnostics.workers import one_thread
    from experiments.data import prepare
    from experiments.training import train

    with progress_bar("learning the tokenizer") as advance:
        data = prepare(config, progress=advance)
    with progress_bar("training the run") as advance, one_thread():
        return train(config, folder=folder, data=data, say=lambda line: None, progress=advance)


def examined(config: RunConfig, record: "RunRecord", *, seeds: int, workers: int | None) -> "Diagnosis":
    """The examination of a finished run."""
    from diagnostics import Budget, examine
    from experiments.subject import subject_of

    budget = Budget(seeds=tuple(range(seeds)), workers=workers, **BUDGETS.get(config.name, {}))
    with stages() as stage:
        return examine(subject_of(config, record), budget=budget, progress=stage)


def write_report(found: "Diagnosis", config: RunConfig, record: "RunRecord", folder: Path) -> None:
    """Report, data and pictures on disk first, then to Weights & Biases."""
    from diagnostics.diagnosis import to_json
    from diagnostics.report import markdown
    from experiments.page import page
    from experiments.pictures import pictures, png
    from experiments.record import write_text
    from experiments.tracking import open_tracker

    drawn = pictures(found)
    write_text(folder / "diagnosis.json", json.dumps(to_json(found), indent=1) + "\n")
    write_text(folder / "report.md", markdown(found))
    write_text(folder / "report.html", page(found, drawn, extras=said_by(record)))
    tracked = override(config, {"track.job_type": "diagnose", "track.group": config.track.group or config.name})
    with open_tracker(tracked, folder, say=typer.echo) as tracker:
        for step, loss in enumerate(found.history, start=1):
            tracker.log({"step": step, "train/loss": loss})
        for picture in drawn:
            tracker.picture(picture.name, png(picture.figure))
        rows = [[c.id, c.role, c.because] for c in (*found.causes, *found.deviations)]
        tracker.table("causes", ["fault", "role", "because"], rows)
        tracker.file(folder / "report.html", kind="report")
        tracker.file(folder / "diagnosis.json", kind="diagnosis")


def said_by(record: "RunRecord") -> dict[str, str]:
    """What the standing run wrote in the end, for the page."""
    import csv

    sample = record.folder / "tables" / "sample.csv"
    if not sample.exists():
        return {}
    with sample.open(newline="") as file:
        _, (text,) = csv.reader(file)
    return {"What the run writes, after a prompt of one context": text}
