"""The `unplateau` command: a file per subcommand. Nothing here imports torch until a command runs."""

import os
import sys
from typing import Annotated

import typer

from experiments.commands.benchmark import benchmark
from experiments.commands.compare import compare
from experiments.commands.decode import decode
from experiments.commands.diagnose import diagnose
from experiments.commands.encode import encode
from experiments.commands.explain import explain
from experiments.commands.faults import faults
from experiments.commands.generate import generate
from experiments.commands.gradients import gradients
from experiments.commands.overfit import overfit
from experiments.commands.runs import runs
from experiments.commands.script_command import ScriptCommand
from experiments.commands.search import search
from experiments.commands.settings import settings
from experiments.commands.show import show
from experiments.commands.tokenize import tokenize
from experiments.commands.train import train
from experiments.commands.tying import tying
from experiments.commands.watch import watch

app = typer.Typer(
    name="unplateau",
    help="Explains why a transformer's loss is stuck, and confirms every cause by removing it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with: unplateau diagnose",
)

COMMANDS = (
    diagnose,
    watch,
    explain,
    faults,
    overfit,
    gradients,
    tying,
    search,
    settings,
    train,
    runs,
    compare,
    generate,
    tokenize,
    encode,
    decode,
    show,
    benchmark,
)
SHORT_HELP = {
    "diagnose": "Explain the loss of your training script, of a setup or a recipe.",
    "watch": "Run your training script, and warn when something is wrong.",
    "search": "Search for better values, and say whether values are the answer.",
    "benchmark": "Count how often a diagnosis is right, or what looking on costs.",
}
CLASSES = {"diagnose": ScriptCommand, "watch": ScriptCommand}
for command in COMMANDS:  # in the order in which --help lists them
    app.command(cls=CLASSES.get(command.__name__), short_help=SHORT_HELP.get(command.__name__))(command)

INTERRUPTED = 130


def show_version(wanted: bool) -> bool:
    """Print the version and leave."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"unplateau {version('unplateau')}")
        raise typer.Exit
    return wanted


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Explains why a transformer's loss is stuck, and confirms every cause by removing it."""


def main() -> None:
    """Run the command line: exit code 2 and one line for what a user can mend, 130 for Ctrl-C."""
    try:
        run()
    except KeyboardInterrupt:
        fail("interrupted; what was recorded so far stays", code=INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'the disk'}: {error.strerror or error}")


def run() -> None:
    """Run the command line and hand over all of its output."""
    try:
        app()
    except SystemExit as end:  # how Typer always ends
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from end
        sys.stdout.flush()
        raise


def fail(message: str, code: int = 2) -> None:
    """Say what is wrong on the error stream and leave."""
    print(f"unplateau: {message}", file=sys.stderr)
    sys.exit(code)
