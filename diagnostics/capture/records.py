"""What a path was before a script touched it, one line of a journal each; and what the script left there."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

LINES = "journal.jsonl"  # in the folder of a journal, beside:
CONTENT = "content"  # what files held
START = "start.json"  # territory and snapshot


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A path as it was before the first change; no links in its folders.

    Args:
        mode: permission bits of a file or a folder.
        times_ns: when a file or a folder was last read and changed.
        content: name of the file in the journal's content folder that holds what the file held.
        target: where a link pointed to.
    """

    path: str
    was: Literal["absent", "file", "folder", "link"]
    mode: int = 0
    times_ns: tuple[int, int] = (0, 0)
    content: str = ""
    target: str = ""


@dataclass(frozen=True)
class Written:
    """What a script did to a file.

    Args:
        path: where.
        what: "new" and "changed" files were written, "removed" ones deleted or moved elsewhere.
        now: where the script's version is; None where there is none.
        journaled: True: the file is as it was before. False: nobody saw the writer, and the file is as it was left.
    """

    path: Path
    what: Literal["new", "changed", "removed"]
    now: Path | None
    journaled: bool


def append_line(journal: Path, kept: Kept) -> None:
    """Adds a line by one write, so that lines of several processes do not mix.

    It starts with a line break: half a line, left by a process killed here, spoils no other.
    """
    line = f"\n{json.dumps(asdict(kept))}\n".encode()
    file = os.open(journal, os.O_WRONLY | os.O_APPEND)
    try:
        if os.write(file, line) != len(line):
            raise OSError(f"{journal}: no space for the next line, so the script may not change {kept.path}")
    finally:
        os.close(file)


def read_lines(journal: Path, start: int = 0) -> tuple[list[Kept], int]:
    """The complete lines from byte `start` on, and where the next one starts. What half a line tells never happened."""
    with open(journal, "rb") as file:
        file.seek(start)
        text = file.read()
    complete = text[: text.rfind(b"\n") + 1]
    return list(_parsed(complete)), start + len(complete)


def _parsed(text: bytes) -> Iterator[Kept]:
    for line in filter(None, text.split(b"\n")):
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        yield Kept(**{**fields, "times_ns": tuple(fields["times_ns"])})
