"""`unplateau diagnose`: run a recipe, or take a setup of the user's own, and explain its loss."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.console import (
    OutOption,
    SetOption,
    WandbOption,
    configured,
    progress_bar,
    results_folder,
    stages,
)
from experiments.config import RunConfig, override
from experiments.recipes import RECIPES

if TYPE_CHECKING:
    from diagnostics.diagnosis import Diagnosis
    from experiments.record import RunRecord


STANDARD = "stuck"

BUDGETS = {"stuck": {"one_batch_steps": 40, "fresh_steps": 160, "alone_steps": 30}}
"""Steps of the trials that a recipe was measured to need (docs/log.md); others take the kernel's defaults."""


def diagnose(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE:FUNCTION]",
            help="Your own setup: a function that returns a Subject or (model, batch, loss_fn). Without it: a recipe.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help=f"Named run: {', '.join(RECIPES)}.", show_default=STANDARD),
    ] = None,
    changes: SetOption = None,
    out: OutOption = None,
    seeds: Annotated[int, typer.Option(help="Seeds of each trial (at least 2).", min=2)] = 3,
    workers: Annotated[
        int | None, typer.Option(help="Trials side by side; by default one per core.", show_default=False, min=1)
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Time that the examination may take, about.", show_default=False, min=1),
    ] = None,
    wandb: WandbOption = "auto",
) -> None:
    """Run a recipe, or take your own setup, and explain where its loss stands, each cause confirmed by removing it.

    Without options: the stuck run, in about two minutes on two cores. With FILE:FUNCTION, such as
    subject.py:make_subject: what that function returns. Writes report.html (one file, opens offline), report.md,
    diagnosis.json, for a recipe also the run's record, and a Weights & Biases run.
    """
    trials = {"seeds": tuple(range(seeds)), "workers": workers, "seconds": seconds}
    if target is not None:
        if recipe is not None or changes:
            raise ValueError(f"--{'set' if recipe is None else 'recipe'} is about recipes; {target} is your own setup")
        diagnose_own(target, out, trials, wandb=wandb)
        return
    config = override(configured(recipe or STANDARD, changes, wandb=wandb), {"train.log_every": 1})
    folder = results_folder(out, f"diagnose-{config.name}")
    record = standing_run(config, folder / "run")
    found = examined(config, record, trials)
    write_report(found, config, record, folder)
    tell(found, folder, run=folder / "run")


def diagnose_own(target: str, out: Path | None, trials: dict[str, Any], *, wandb: str) -> None:
    """The same for a setup of the user's own."""
    from diagnostics import Budget, examine
    from experiments.commands.target import subject_at

    subject = subject_at(target)
    config = override(RunConfig(), {"name": subject.name, "track.mode": wandb})
    folder = results_folder(out, f"diagnose-{file_name(subject.name)}")
    refuse_taken(folder)
    with stages() as stage:
        found = examine(subject, budget=Budget(**trials), progress=stage)
    write_report(found, config, None, folder)
    tell(found, folder)


def refuse_taken(folder: Path) -> None:
    """Raises ValueError where a diagnosis stands already."""
    if (folder / "diagnosis.json").exists():
        raise ValueError(f"{folder} already holds a diagnosis; choose another folder with --out")


def file_name(name: str) -> str:
    """A subject's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name)[:40].strip("-.") or "subject"


def tell(found: "Diagnosis", folder: Path, run: Path | None = None) -> None:
    """The report in the terminal, and where the files are."""
    from experiments.terminal import render

    render(found)
    typer.echo(f"\nreport   {folder / 'report.html'}\ndata     {folder / 'diagnosis.json'}")
    if run is not None:
        typer.echo(f"run      {run}")
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


def examined(config: RunConfig, record: "RunRecord", trials: dict[str, Any]) -> "Diagnosis":
    """The examination of a finished run."""
    from diagnostics import Budget, examine
    from experiments.subject import subject_of

    budget = Budget(**trials | BUDGETS.get(config.name, {}))
    with stages() as stage:
        return examine(subject_of(config, record), budget=budget, progress=stage)


def write_report(found: "Diagnosis", config: RunConfig, record: "RunRecord | None", folder: Path) -> None:
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
    write_text(folder / "report.html", page(found, drawn, extras=said_by(record) if record else {}))
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
