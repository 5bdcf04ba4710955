"""`unplateau faults`: the catalogue."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import heading, hint, paragraph
from experiments.settings import did_you_mean

if TYPE_CHECKING:
    from diagnostics.fault import Fault

FAMILIES = ("data", "model", "optimization", "evaluation")
GRADES = ("proof", "sign", "deviation", "explanation")


def faults(
    family: Annotated[str | None, typer.Option(help=f"Only this one: {', '.join(FAMILIES)}.")] = None,
    grade: Annotated[str | None, typer.Option(help=f"Only this one: {', '.join(GRADES)}.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Every card in full, as docs/catalogue.md.")] = False,
) -> None:
    """List the faults that a diagnosis can find.

    Grades: a proof cannot happen in a healthy setup; a sign suggests; a deviation departs from the recipe and is
    harmless until a trial says otherwise; an explanation is a reason that is no fault.
    """
    from diagnostics.faults import CATALOGUE

    refuse_unknown("family", family, FAMILIES)
    refuse_unknown("grade", grade, GRADES)
    chosen = [each for each in CATALOGUE if family in (None, each.family) and grade in (None, each.grade)]
    if markdown:
        from experiments.catalogue import catalogue_markdown

        typer.echo(catalogue_markdown(chosen), nl=False)
    elif sys.stdout.isatty():
        show_by_family(chosen)
    else:
        widest = max((len(each.id) for each in chosen), default=0) + 2
        for each in chosen:
            typer.echo(f"{each.id:<{widest}}{each.family:<14}{each.grade:<13}{each.card.title}")
    if not markdown:
        hint("unplateau explain FAULT")


def refuse_unknown(what: str, value: str | None, known: Sequence[str]) -> None:
    """Raise ValueError for a value that is none of the known ones, with the nearest."""
    if value is not None and value not in known:
        raise ValueError(f"no {what} {value!r}{did_you_mean(value, known)}")


def show_by_family(chosen: Sequence["Fault"]) -> None:
    """A heading per family, and a fault with its grade and its one sentence below."""
    for family in FAMILIES:
        members = [each for each in chosen if each.family == family]
        if members:
            heading(family)
        for each in members:
            typer.echo(f"  {each.id}  ({each.grade})")
            paragraph(each.card.title, indent=6)
