"""The report in a terminal: the answer first, then the causes, the order of repair and the rest in a line each.

What is said comes from `diagnostics.report.sections`; this file lays it out in 80 columns. In a pipe there are no
colours and no trailing spaces, so that the text can be mailed and searched. Code, measurements and whole sentences on
what was ruled out stand in the page.
"""

import textwrap
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from diagnostics.diagnosis import Diagnosis
from diagnostics.report import Entry, Section, sections
from diagnostics.report import Table as Rows

COLUMNS = 80
COLOURS = {"faulty": "bold red", "healthy": "bold green", "unexplained": "bold magenta"}
FULL = ("causes", "behind", "suspected", "unconfirmed")  # told with trial and evidence; the rest gets a line each
ELSEWHERE = ("Repair", "Probe", "Share")  # facts of a cause that the way of repairs and the page tell


def render(diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print the report.

    Args:
        console: where to; None: standard output.
    """
    console = console or report_console()
    if console.is_terminal:
        console.print(report(diagnosis))
        return
    with console.capture() as captured:
        console.print(report(diagnosis))
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    console.file.write(text.encode(console.encoding, "replace").decode(console.encoding) + "\n")


def report_console() -> Console:
    """A console on standard output: as wide as the terminal, 80 columns in a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=COLUMNS, no_color=True)


def report(diagnosis: Diagnosis) -> RenderableType:
    """The report as something that rich can print."""
    parts: list[RenderableType] = []
    for section in sections(diagnosis):
        if section.name == "answer":
            parts.append(_answer(section, diagnosis.state))
        elif not section.appendix:
            parts += [Text(), Rule(Text(section.title, style="bold"), align="left", characters="-"), *_body(section)]
    return Group(*parts)


def _answer(section: Section, state: str) -> RenderableType:
    title = Text.assemble((state.upper(), COLOURS[state]), "  ", (section.title, "bold"))
    paragraphs = [Text(paragraph) for paragraph in section.paragraphs]
    return Group(title, *(line for paragraph in paragraphs for line in (Text(), paragraph)))


def _body(section: Section) -> Iterator[RenderableType]:
    for paragraph in section.paragraphs:
        yield Padding(Text(paragraph), (0, 0, 1 if section.entries else 0, 0))
    for place, entry in enumerate(section.entries, start=1):
        yield _full(place, entry) if section.name in FULL else _brief(place, entry)
    for table in section.tables:
        yield _rows(section.name, table)


def _full(place: int, entry: Entry) -> RenderableType:
    """A cause: name, role, and its deciding facts in two columns."""
    facts = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    facts.add_column(style="dim", width=16)
    facts.add_column(overflow="fold")
    for what, sentence in entry.facts:
        if what not in ELSEWHERE:
            facts.add_row(Text(what), Text(sentence))
    role = Text(entry.role, style="italic")
    inside = Padding(Group(role, facts), (0, 0, 0, 3))
    return Group(_line(f"{place}. ", entry.fault or "", entry.title), inside)


def _brief(place: int, entry: Entry) -> RenderableType:
    """A step, a deviation or a reason: its name and its deciding sentence."""
    return _line(f"{place}. ", entry.fault or "", entry.facts[0][1] if entry.facts else entry.title)


def _rows(name: str, table: Rows) -> RenderableType:
    if name == "ruled-out":
        return _ruled_out(table)
    if name == "after":
        return _milestones(table)
    if name == "path":
        return _path(table)
    return Group(*(_line("- ", row[0], row[1]) for row in table.rows))


def _ruled_out(table: Rows) -> RenderableType:
    """One line for each fault, cut where it is too long: the page has the whole sentences."""
    lines = (textwrap.shorten(f"{name}: {because}", COLUMNS - 2, placeholder=" ...") for name, because, _ in table.rows)
    names = (len(row[0]) for row in table.rows)
    return Group(*(_styled(f"- {line}", 2, 2 + name) for line, name in zip(lines, names, strict=True)))


def _styled(line: str, start: int, end: int) -> Text:
    text = Text(line)
    text.stylize("cyan", start, end)
    return text


def _milestones(table: Rows) -> RenderableType:
    told = [(row[0], f"{row[1]}, to be below {row[2]}: {row[3]}") for row in table.rows]
    return Group(*(_line("- ", claim, line) for claim, line in told))


def _path(table: Rows) -> RenderableType:
    """A line for each repair with both losses, and what it reveals below it."""
    told = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for place, column in enumerate(table.columns[:3]):
        told.add_column(column, justify="right" if place else "left", overflow="fold")
    for row in table.rows:
        told.add_row(Text(row[0], style="cyan"), *map(Text, row[1:3]))
        if row[3:] and row[3] != table.rows[0][3]:
            told.add_row(Text(f"  reveals {row[3]}"))
    return told


def _line(mark: str, name: str, sentence: str) -> RenderableType:
    """A line that stays indented where it has to wrap."""
    line = Table.grid(padding=(0, 0))
    line.add_column(width=len(mark))
    line.add_column(overflow="fold")
    line.add_row(Text(mark), Text.assemble((name, "cyan"), f": {sentence}"))
    return line
