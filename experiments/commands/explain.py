"""`unplateau explain`: everything that is known about one fault."""

import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import heading, paragraph, tell
from experiments.settings import did_you_mean

if TYPE_CHECKING:
    from diagnostics.fault import Fault

SCHEMAS = ("json", "markdown")


def explain(
    fault: Annotated[
        str | None,
        typer.Argument(metavar="FAULT", help="Id of a fault; unplateau faults lists them.", show_default=False),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(help=f"Explain diagnosis.json instead, as one of: {', '.join(SCHEMAS)}.", show_default=False),
    ] = None,
) -> None:
    """Explain one fault.

    How it shows, why it hurts, how it is measured and judged, what it is mistaken for, and how to remove it.
    With --schema: every key of diagnosis.json, for people or for programs.
    """
    if (fault is None) == (schema is None):
        raise ValueError("explain takes one FAULT (unplateau faults lists them), or --schema")
    if fault is None:
        typer.echo(written_schema(str(schema)), nl=False)
        return
    found = known_fault(fault)
    heading(f"{found.id}  ({found.family}, {found.grade})")
    typer.echo(found.card.title)
    for title, body in sections(found).items():
        heading(f"\n{title}")
        paragraph(body, indent=2)
    for title, code in {"Wrong": found.wrong, "Right": found.right}.items():
        if code:
            heading(f"\n{title}")
            typer.echo(textwrap.indent(code, "  "))
    typer.echo()
    tell("next", next_step(found))


def written_schema(form: str) -> str:
    """The schema of diagnosis.json; raises ValueError for a form that is none of SCHEMAS, with the nearest."""
    from diagnostics.schema import json_schema, schema_page

    if form not in SCHEMAS:
        raise ValueError(f"no schema {form!r}{did_you_mean(form, SCHEMAS)}")
    return schema_page() if form == "markdown" else json.dumps(json_schema(), indent=1) + "\n"


def known_fault(name: str) -> "Fault":
    """The catalogue's entry; raises ValueError for an unknown id, with the nearest known one."""
    from diagnostics.faults import CATALOGUE

    by_id = {fault.id: fault for fault in CATALOGUE}
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in by_id:
        raise ValueError(f"no fault {name!r}{did_you_mean(wanted, by_id)}")
    return by_id[wanted]


def sections(fault: "Fault") -> dict[str, str]:
    """Headings and texts of the entry, in the order of reading."""
    probes = "\n".join(f"{probe.name}: {probe.question}" for probe in fault.measured_by)
    remedies = "\n".join(f"{remedy.name}: we {remedy.does}" for remedy in fault.remedies)
    extra = {"Probes": probes, "Applied by unplateau": remedies}
    return dict(fault.card.sections) | {title: body for title, body in extra.items() if body}


def next_step(fault: "Fault") -> str:
    """The command that looks further: at what is easily taken for this fault, or at a run."""
    from diagnostics.faults import CATALOGUE

    known = {each.id for each in CATALOGUE}
    near = next((other for other in fault.looks_like if other in known), None)
    return f"unplateau explain {near}" if near else "unplateau diagnose"
