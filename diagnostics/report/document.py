"""The report as one Markdown document."""

from collections.abc import Iterable

from diagnostics.report.parts import Entry, Section, Table
from diagnostics.report.words import plain


def document(title: str, sections: Iterable[Section]) -> str:
    """A heading and every section below it."""
    return "\n\n".join([f"# {plain(title)}", *map(_section, sections)]) + "\n"


def _section(section: Section) -> str:
    title = f"## {plain(section.title)}"
    entries = [_entry(place, entry) for place, entry in enumerate(section.entries, start=1)]
    return "\n\n".join([title, *map(plain, section.paragraphs), *entries, *map(_table, section.tables)])


def _entry(place: int, entry: Entry) -> str:
    name = f" (`{entry.fault}`)" if entry.fault else ""
    lines = [f"### {place}. {plain(entry.title)}{name}"]
    if entry.role:
        lines.append(f"*{plain(entry.role)}*")
    if entry.facts:
        lines.append("\n".join(f"- **{plain(what)}:** {plain(sentence)}" for what, sentence in entry.facts))
    if entry.wrong or entry.right:
        both = [f"# {label}\n{code}" for label, code in (("wrong", entry.wrong), ("right", entry.right)) if code]
        lines.append("```python\n" + "\n".join(both) + "\n```")
    return "\n\n".join(lines)


def _table(table: Table) -> str:
    head = [table.columns, tuple("---" for _ in table.columns)]
    rows = [*head, *(tuple(map(plain, row)) for row in table.rows)]
    return "\n".join([f"{plain(table.caption)}:\n", *(f"| {' | '.join(row)} |" for row in rows)])
