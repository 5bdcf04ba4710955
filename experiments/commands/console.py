"""What the subcommands share: options, progress bars, folders and configurations from the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.config import RunConfig, override
from experiments.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from rich.console import Console

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help=f"Named run: {', '.join(RECIPES)}.", show_default=True)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Change one setting, such as optim.lr=1e-3; repeatable."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the results; by default a new one below ./runs.")
]
WandbOption = Annotated[
    str, typer.Option("--wandb", help="Weights & Biases: auto, online, offline or disabled.", show_default=True)
]

Advance = Callable[[int, int], None]


def configured(name: str, changes: list[str] | None, *, wandb: str = "auto") -> RunConfig:
    """The recipe with the changes of the command line.

    Raises:
        ValueError: an unknown recipe or setting (with the nearest known one), a value that does not fit.
    """
    return override(recipe(name), assignments(changes or []) | {"track.mode": wandb})


def assignments(changes: list[str]) -> dict[str, str]:
    """`NAME=VALUE` texts as a dictionary.

    >>> assignments(["optim.lr=1e-3"])
    {'optim.lr': '1e-3'}
    """
    pairs = [change.partition("=") for change in changes]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise ValueError(f"--set {wrong!r} has no value; write NAME=VALUE, such as optim.lr=1e-3")
    return {name.strip(): value.strip() for name, _, value in pairs}


def results_folder(out: Path | None, name: str) -> Path:
    """The folder for this run's results; a new one below ./runs, named by name and time, unless told otherwise."""
    return out or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S-%f}"


def console() -> "Console":
    """The terminal; plain text of any width where the output is a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """A bar on the error stream, gone when the work is done; its function takes (done, of how many)."""
    with stages() as stage:
        yield lambda done, total: stage(title, done, total)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """One bar for work in stages: its function takes (what is going on, done, of how many)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("starting", total=None)
        yield lambda title, done, total: progress.update(bar, description=title, completed=done, total=total)
