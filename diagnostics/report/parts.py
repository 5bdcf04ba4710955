"""What a report is made of: sections of paragraphs, entries and tables, all of them plain text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that a section tells: a cause, a deviation, a step.

    Args:
        title: one sentence.
        fault: the id of the fault that it is about.
        role: what it does to this run, in plain words.
        facts: (what, sentence) pairs, the deciding one first.
        wrong / right: the same few lines of code with and without the fault.
    """

    title: str
    fault: str | None = None
    role: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    wrong: str = ""
    right: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A caption, column names and rows of plain text."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report.

    Args:
        name: stable, for anchors: "answer", "why", "causes", "behind", "suspected", "unconfirmed", "song",
            "deviations", "order", "path", "after", "reasons", "left-out", "unclear", "ruled-out", "not-tested",
            "levels", "evidence".
        appendix: True for what one looks up instead of reading.
    """

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    tables: tuple[Table, ...] = ()
    appendix: bool = False

    @property
    def says_something(self) -> bool:
        """Whether there is anything under the title."""
        return bool(self.paragraphs or self.entries or self.tables)
