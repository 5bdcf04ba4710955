"""A script's files where its diagnosis was killed before it could put them back: whoever comes next does it."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.observed import KEPT, WRITTEN

JOURNALS, ORDERS = f"{KEPT}*/journal.jsonl", "*.json"


def put_back_leftovers(folder: Path, say: Callable[[str], None]) -> None:
    """Put back the files of scripts whose diagnoses were killed, in this folder of results and in those beside it."""
    for work in sorted({folder / "script", *folder.parent.glob("*/script"), *Path("runs").resolve().glob("*/script")}):
        kept = list(unrestored(work))
        if kept and not is_at_work(work):
            put_back(work, kept)
            say(f"files     yours are as they were before {work.parent.name}, which was killed")


def unrestored(work: Path) -> Iterator[Path]:
    """The folders of journals that nobody has closed."""
    from diagnostics.capture.restoring import DONE

    journals = (lines.parent for lines in work.glob(JOURNALS))
    return (keep for keep in journals if not (keep / DONE).exists())


def put_back(work: Path, kept: list[Path]) -> None:
    """Put back what these journals kept, the last one first."""
    from diagnostics.capture.files import restore

    for keep in sorted(kept, reverse=True):
        restore(keep, work / keep.name.replace(KEPT, WRITTEN))


def is_at_work(work: Path) -> bool:
    """Whether a process still carries out an order of that folder, see `hold`."""
    return any(is_held(order) for order in work.glob(ORDERS))


def is_held(order: Path) -> bool:
    """Whether a process lives that holds the file of its order."""
    with order.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def make_room(folder: Path) -> None:
    """Remove what a diagnosis that came to nothing left in a folder of results.

    Raises:
        ValueError: a script is still watched there, or what it wrote lies there.
    """
    work = folder / "script"
    if is_at_work(work):
        raise ValueError(f"{folder} belongs to a diagnosis that is still going on; choose another folder with --out")
    if (work / WRITTEN).exists() or (folder / "scratch").exists():
        raise ValueError(f"{folder} already holds what a script wrote; choose another folder with --out")
    if os.path.isdir(work):
        shutil.rmtree(work)
