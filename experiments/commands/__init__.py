"""The `unplateau` command: a file per subcommand. Nothing here imports torch until a command runs."""

import sys

import typer

from experiments.commands.diagnose import diagnose

app = typer.Typer(
    name="unplateau",
    help="Explains why a transformer's loss is stuck, and confirms every cause by removing it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with: unplateau diagnose",
)

app.command()(diagnose)


def main() -> None:
    """Run the command line: exit code 2 and one line for what a user can mend, 130 for Ctrl-C."""
    try:
        sys.exit(app())
    except KeyboardInterrupt:
        fail("interrupted; what was recorded so far stays", code=130)
    except ValueError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'the disk'}: {error.strerror or error}")


def fail(message: str, code: int = 2) -> None:
    """Say what is wrong on the error stream and leave."""
    print(f"unplateau: {message}", file=sys.stderr)
    sys.exit(code)
