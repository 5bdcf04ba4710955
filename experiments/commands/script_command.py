"""What the commands share that run a script of the user's own: its place on the command line, and its arguments."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

ScriptsArguments = Annotated[
    list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The script's own command line.", show_default=False)
]


class ScriptCommand(TyperCommand):
    """A command whose options end at the name of a script: what follows is the script's own command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take everything behind a script as it is written."""
        valued = {name for each in self.params if not getattr(each, "is_flag", True) for name in each.opts}
        cut = position_of_script(args, valued) + 1
        return super().parse_args(ctx, [*args[:cut], *(["--"] if args[cut:] else []), *args[cut:]])


def position_of_script(args: Sequence[str], valued: Collection[str]) -> int:
    """Where the script stands on a command line; its end where there is none.

    Args:
        valued: options that take a value, which is no script.

    >>> position_of_script(["--seeds", "2", "train.py", "--out", "weights"], {"--seeds", "--out"})
    2
    """
    scripts = (i for i, each in enumerate(args) if each.endswith(".py") and (i == 0 or args[i - 1] not in valued))
    return next(scripts, len(args))


def script_at(target: str) -> Path:
    """The script; raises ValueError where there is none."""
    script = Path(target).resolve()
    if script.is_dir():
        raise ValueError(f"{target} is a folder; give the path of a training script in it")
    if not script.is_file():
        raise ValueError(f"{target} does not exist; give the path of a training script, or FILE.py:FUNCTION")
    return script
