"""`unplateau train`: train a recipe to a record on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import (
    OutOption,
    SetOption,
    assignments,
    configured,
    progress_bar,
    results_folder,
    tell,
)
from experiments.config import RunConfig, override
from experiments.recipes import RECIPES

if TYPE_CHECKING:
    from experiments.record import RunRecord

DEFAULT_RECIPE = "small"


def train(
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help=f"Named run: {', '.join(RECIPES)}.  [default: {DEFAULT_RECIPE}]"),
    ] = None,
    changes: SetOption = None,
    out: OutOption = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Go on with the run in this folder, bit for bit, to its end.")
    ] = None,
    wandb: Annotated[
        str | None,
        typer.Option("--wandb", help="Weights & Biases: auto, online, offline or disabled.  [default: auto]"),
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Processor threads. Small models gain nothing from more; raise it for wide ones.", min=1)
    ] = 1,
) -> None:
    """Train a recipe and keep its record.

    The record has configuration, metrics, environment, weights and tokenizer. Losses are in nats per token; bits per
    byte compares runs with different vocabularies. Ctrl-C keeps what was recorded, and --resume goes on from there.
    """
    if resume is None:
        config = configured(recipe or DEFAULT_RECIPE, changes, wandb=wandb or "auto")
        folder = results_folder(out, config.name)
        refuse_occupied(folder)
    else:
        refuse_beside_resume(recipe=recipe, out=out)
        config, folder = resumed_config(resume, changes, wandb), resume
    try:
        record = trained(config, folder, resume=resume is not None, threads=threads)
    except KeyboardInterrupt:
        if (folder / "checkpoint.pt").exists():
            typer.echo(f"next        unplateau train --resume {folder}", err=True)
        raise
    tell("record", record.folder)
    tell("best", best_evaluation(record))
    tell("next", f"unplateau generate {record.folder}")


def trained(config: RunConfig, folder: Path, *, resume: bool, threads: int) -> "RunRecord":
    """The finished run, its lines on the output and its bar beside them."""
    import torch

    from experiments.data import prepare
    from experiments.tracking import open_tracker
    from experiments.training import train

    torch.set_num_threads(threads)
    with progress_bar("learning the tokenizer") as advance:
        data = prepare(config, progress=advance)
    with open_tracker(config, folder, say=typer.echo) as tracker, progress_bar("training") as advance:
        return train(config, folder=folder, tracker=tracker, resume=resume, data=data, say=typer.echo, progress=advance)


def resumed_config(folder: Path, changes: list[str] | None, wandb: str | None) -> RunConfig:
    """The configuration of the run in a folder, with the changes of the command line."""
    from experiments.record import RunRecord

    tracked = {} if wandb is None else {"track.mode": wandb}
    return override(RunRecord.open(folder).config, assignments(changes or []) | tracked)


def refuse_occupied(folder: Path) -> None:
    """Refuse a folder with a run in it before anything is started."""
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} already holds a run; go on with it by --resume {folder}, or choose another --out")


def refuse_beside_resume(**settings: object) -> None:
    """Refuse what a resumed run has decided already."""
    for name, value in settings.items():
        if value is not None:
            raise ValueError(f"--{name} ({value}) and --resume exclude each other; the run decided that when it began")


def best_evaluation(record: "RunRecord") -> str:
    """The best held-out figure of a run, and when it was measured."""
    evaluated = [row for row in record.rows() if "val/bits_per_byte" in row]
    if not evaluated:
        return "no evaluation"
    best = min(evaluated, key=lambda row: row["val/bits_per_byte"])
    return f"{best['val/bits_per_byte']:.3f} bits/byte on held-out text, at step {best['step']}"
