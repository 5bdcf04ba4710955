"""`unplateau diagnose`: run a script, a recipe, or take a setup of the user's own, and explain its loss."""

import re
from dataclasses import dataclass
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
from experiments.commands.script_command import ScriptsArguments, script_at
from experiments.config import RunConfig, override
from experiments.leftovers import make_room, put_back_leftovers
from experiments.observed import Order
from experiments.recipes import RECIPES
from experiments.scripts import diagnosed, in_scratch

if TYPE_CHECKING:
    from diagnostics.diagnosis import Diagnosis
    from experiments.record import RunRecord


STANDARD = "stuck"
EXAMINED_WITHIN = 90.0  # seconds, for a script of which nobody knows how long a step takes

BUDGETS = {"stuck": {"one_batch_steps": 40, "fresh_steps": 160, "alone_steps": 30}}
"""Steps of the trials that a recipe was measured to need (docs/log.md); others take the kernel's defaults."""


def diagnose(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT.py|FILE:FUNCTION",
            help="Your training script, unmodified, with its own arguments behind it; or a function that returns a "
            "Subject or (model, batch, loss_fn). Without it: a recipe.",
            show_default=False,
        ),
    ] = None,
    arguments: ScriptsArguments = None,
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
    steps: Annotated[int, typer.Option(help="Optimizer steps that a script is watched for.", min=2)] = 200,
    observe: Annotated[
        float, typer.Option(help="Seconds of training that a script is watched for, whichever comes first.", min=1)
    ] = 60.0,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Run a script in a copy of the working directory.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write a script's output to a file beside the report.")
    ] = False,
) -> None:
    """Run a script or a recipe, or take your own setup, and explain where its loss stands, each cause confirmed.

    With SCRIPT.py: your training script as it is, watched for its first steps and then ended; files that it writes are
    set aside and yours put back. Without a target: the stuck run, in about two minutes on two cores. With
    FILE:FUNCTION, such as subject.py:make_subject: what that function returns. Writes report.html (one file, opens
    offline), report.md, diagnosis.json, for a recipe also the run's record, and a Weights & Biases run.
    """
    trials = {"seeds": tuple(range(seeds)), "workers": workers, "seconds": seconds}
    how = Watching(steps, observe, scratch, quiet)
    check_target(target, arguments, how, of_recipes="recipe" if recipe else "set" if changes else "")
    if target is not None and target.endswith(".py"):
        diagnose_script(target, tuple(arguments or ()), out, trials, how, wandb=wandb)
    elif target is not None:
        diagnose_own(target, out, trials, wandb=wandb)
    else:
        diagnose_recipe(recipe or STANDARD, changes, out, trials, wandb=wandb)


@dataclass(frozen=True)
class Watching:
    """How a script is watched: for so many optimizer steps or seconds, in a copy of its folder, without its output."""

    steps: int = 200
    seconds: float = 60.0
    scratch: bool = False
    quiet: bool = False


def check_target(target: str | None, arguments: list[str] | None, how: Watching, *, of_recipes: str) -> None:
    """Raises ValueError where an option is about another kind of target.

    Args:
        of_recipes: the name of an option about recipes that was given; empty where none was.
    """
    if target is not None and of_recipes:
        raise ValueError(f"--{of_recipes} is about recipes; {target} is your own setup")
    if target is not None and target.endswith(".py"):
        return
    if arguments:
        raise ValueError(f"{arguments[0]} is too much; only a script takes arguments of its own")
    if how != Watching():
        raise ValueError("--steps, --observe, --scratch and --quiet say how a script is watched; give a SCRIPT.py")


def diagnose_recipe(
    name: str, changes: list[str] | None, out: Path | None, trials: dict[str, Any], *, wandb: str
) -> None:
    """Train a recipe to where its loss stands, and explain that."""
    config = override(configured(name, changes, wandb=wandb), {"train.log_every": 1})
    folder = results_folder(out, f"diagnose-{config.name}")
    record = standing_run(config, folder / "run")
    found = examined(config, record, trials)
    tell(found, config, folder, record)


def diagnose_script(
    target: str, arguments: tuple[str, ...], out: Path | None, trials: dict[str, Any], how: Watching, *, wandb: str
) -> None:
    """The same for an unmodified script."""
    script = script_at(target)
    config = override(RunConfig(), {"name": script.name, "track.mode": wandb})
    folder = results_folder(out, f"diagnose-{file_name(script.stem)}").resolve()
    refuse_taken(folder)
    put_back_leftovers(folder, typer.echo)
    make_room(folder)
    order = Order(
        script=str(script),
        arguments=arguments,
        folder=str(folder),
        place=str(Path.cwd()),
        steps=how.steps,
        seconds=how.seconds,
        seeds=trials["seeds"],
        workers=trials["workers"],
        examined_within=trials["seconds"] or EXAMINED_WITHIN,
    )
    order = in_scratch(order) if how.scratch else order
    typer.echo(
        f"watching   {script.name}, up to {how.steps} optimizer steps or {how.seconds:g} s; Ctrl-C ends it early"
    )
    if how.scratch:
        typer.echo(f"files     it runs in a copy of this folder and writes there: {order.place}")
    tell(diagnosed(order, say=typer.echo, stages=stages, quiet=how.quiet), config, folder)


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
    tell(found, config, folder)


def refuse_taken(folder: Path) -> None:
    """Raises ValueError where a diagnosis stands already."""
    if (folder / "diagnosis.json").exists():
        raise ValueError(f"{folder} already holds a diagnosis; choose another folder with --out")


def file_name(name: str) -> str:
    """A subject's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name)[:40].strip("-.") or "subject"


def tell(found: "Diagnosis", config: RunConfig, folder: Path, record: "RunRecord | None" = None) -> None:
    """Files and Weights & Biases first, then the report in the terminal, and where the files are."""
    from experiments.results import write_report
    from experiments.terminal import render

    write_report(found, config, record, folder, say=typer.echo)
    render(found)
    typer.echo(f"\nreport   {folder / 'report.html'}\ndata     {folder / 'diagnosis.json'}")
    if record is not None:
        typer.echo(f"run      {record.folder}")
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
