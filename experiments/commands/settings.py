"""`unplateau settings`: everything that --set can change."""

import functools
import sys
from typing import Annotated

import typer

from experiments.commands.console import RecipeOption, configured, heading, hint, paragraph
from experiments.settings import Setting, did_you_mean


def settings(
    section: Annotated[
        str | None, typer.Argument(help="Only this section, such as optim or model.", show_default=False)
    ] = None,
    recipe: RecipeOption = "small",
) -> None:
    """List what --set can change.

    Each setting with its value in the recipe, its unit and what it does.
    """
    from experiments.config import settings as known

    config = configured(recipe, None)
    for each in members(known(), section):
        value = functools.reduce(getattr, each.name.split("."), config)
        line, unit = f"{each.name}={as_typed(value)}", f" ({each.unit})" if each.unit else ""
        if sys.stdout.isatty():
            heading(line)
            paragraph(each.what + unit, indent=6)
        else:
            typer.echo(f"{line:<42}  {each.what}{unit}")
    hint(f"unplateau train --recipe {recipe} --set NAME=VALUE")


def members(known: list[Setting], section: str | None) -> list[Setting]:
    """The settings of a section, or all; raises ValueError for an unknown one, with the nearest known."""
    chosen = [each for each in known if section in (None, each.name, each.name.partition(".")[0])]
    if not chosen:
        names = dict.fromkeys(name for each in known for name in (each.name.partition(".")[0], each.name))
        raise ValueError(f"no section {section!r}{did_you_mean(str(section), names)}")
    return chosen


def as_typed(value: object) -> str:
    """A value as one would type it after the equals sign.

    >>> as_typed((0.9, 0.95)), as_typed(None), as_typed(True)
    ('0.9,0.95', 'none', 'true')
    """
    if isinstance(value, tuple):
        return ",".join(map(as_typed, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
