"""What the subcommands share: options, progress bars, folders and configurations from the command line."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.config import RunConfig, override
from experiments.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from rich.console import Console

    from bpe import Tokenizer

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help=f"Named run: {', '.join(RECIPES)}.", show_default=True)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="NAME=VALUE",
        help="Change a setting, such as optim.lr=1e-3; repeatable. unplateau settings lists them.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the results; by default a new one below ./runs.")
]
WandbOption = Annotated[
    str, typer.Option("--wandb", help="Weights & Biases: auto, online, offline or disabled.", show_default=True)
]
WorkersOption = Annotated[
    int | None, typer.Option(help="Runs side by side; by default one per core.", show_default=False, min=1)
]
TokenizerArgument = Annotated[
    Path, typer.Argument(metavar="TOKENIZER", help="Folder or file of a tokenizer, or the folder of a run.")
]

WIDEST = 100
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


def stored_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer at a path, or that of the run whose folder it is; raises ValueError where there is none."""
    import bpe

    return bpe.load(path / "tokenizer" if (path / "tokenizer").is_dir() else path)


def text_of(paths: Sequence[str]) -> list[str]:
    """The texts that files, folders and the built-in names stand for; raises ValueError where one has none."""
    from experiments import corpora

    built_in: dict[str, Callable[[], list[str]]] = {"lanterns": corpora.lanterns, "pydoc": lambda: [corpora.pydoc()]}
    return [text for path in paths for text in (built_in[path]() if path in built_in else corpora.read_texts(path))]


def tell(label: str, text: object) -> None:
    """One line of results: what it is, and the value in a column of its own; never wrapped, so paths can be copied."""
    typer.echo(f"{label:<12}{text}")


def heading(text: str) -> None:
    """A line that stands out on a terminal."""
    typer.secho(text, bold=True)


def width() -> int:
    """Columns for running text: those of the terminal, 80 for a pipe, and no more than can be read with ease."""
    return min(shutil.get_terminal_size().columns, WIDEST)


def paragraph(text: str, *, indent: int) -> None:
    """Running text, wrapped and indented; its own line ends stay."""
    margin = " " * indent
    wrap = textwrap.TextWrapper(width(), margin, margin, break_long_words=False, break_on_hyphens=False)
    for line in text.splitlines():
        typer.echo(wrap.fill(line))


def hint(text: str) -> None:
    """What to do next, for commands whose output may be read by a program: on a terminal only, beside the output."""
    if sys.stdout.isatty():
        typer.echo(f"next        {text}", err=True)


def console() -> "Console":
    """The terminal; plain text where the output is a file or a pipe."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """A bar on the error stream, gone when the work is done; its function takes (done, of how many)."""
    with stages() as stage:
        yield lambda done, total: stage(title, done, total)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """One bar for work in stages: its function takes (what is going on, done, of how many).

    Lines that are written meanwhile stand above the bar where both streams are the same terminal; otherwise they go
    where they always go.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    terminal = Console(stderr=True)
    shared = sys.stdout.isatty() and terminal.is_terminal
    with Progress(
        *columns, console=terminal, transient=True, redirect_stdout=shared, disable=not terminal.is_terminal
    ) as progress:
        bar = progress.add_task("starting", total=None)
        yield lambda title, done, total: progress.update(bar, description=title, completed=done, total=total)
