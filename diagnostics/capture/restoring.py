"""Puts a script's files back as its journal kept them, and sets aside what the script wrote."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from diagnostics.capture.folders import Snapshot, Territory, changes, snapshot
from diagnostics.capture.records import CONTENT, LINES, START, Kept, Written, read_lines

DONE = "restored.json"


@dataclass(frozen=True)
class Restored:
    """What a script did to files.

    Args:
        written: everything that it wrote, changed or removed.
        complete: False where there were too many files to look at all of them for writers that cannot be seen.
    """

    written: tuple[Written, ...]
    complete: bool


def restore(keep: Path, moved_to: Path) -> Restored:
    """Every file is what it was when the journal began; what the script wrote is moved to `moved_to`.

    To be called when nothing of the script runs any more. Calling it again changes nothing and tells the same; one that
    was interrupted goes on where it was.

    Args:
        keep: the folder of the journal.
        moved_to: the script's versions, laid out as in the first watched folder; what was elsewhere is in `elsewhere/`.

    Raises:
        ValueError: `keep` holds no journal.
        OSError: some files could not be put back; the others are.
    """
    keep, moved_to = Path(os.path.realpath(keep)), Path(os.path.realpath(moved_to))
    if not (keep / LINES).exists():
        raise ValueError(f"{keep} holds no journal; it must be the folder that a Journal was given")
    if (keep / DONE).exists():
        return _read(keep / DONE)
    start = json.loads((keep / START).read_text())
    territory, before = Territory.of_json(start["territory"]), Snapshot.of_json(start["snapshot"])
    written = _Restoring(keep, moved_to, territory).all()
    after = snapshot(territory.without(keep, moved_to))
    result = Restored((*written, *changes(before, after)), before.complete and after.complete)
    _write(keep / DONE, result)
    shutil.rmtree(keep / CONTENT)
    return result


def _first_of_each(lines: list[Kept]) -> list[Kept]:
    """What each path was before anybody touched it, folders first; in a folder that was not there, nothing was."""
    first: dict[str, Kept] = {}
    for kept in lines:
        first.setdefault(kept.path, kept)
    absent = {Path(path) for path, kept in first.items() if kept.was == "absent"}
    real = [kept for kept in first.values() if absent.isdisjoint(Path(kept.path).parents)]
    return sorted(real, key=lambda kept: kept.path.count("/"))


class _Restoring:
    def __init__(self, keep: Path, moved_to: Path, territory: Territory) -> None:
        self.content, self.moved_to, self.territory = keep / CONTENT, moved_to, territory
        self.folder = os.path.realpath(territory.watched[0]) if territory.watched else None
        self.kept = _first_of_each(read_lines(keep / LINES)[0])
        self.held = {(status.st_dev, status.st_ino) for status in map(os.stat, self.content.iterdir())}

    def all(self) -> list[Written]:
        """Puts back what is above first, and gives folders their properties when nothing in them changes any more."""
        written: list[Written] = []
        failures: list[str] = []
        for kept in self.kept:
            try:
                written += self.put_back(kept)
            except OSError as error:
                failures.append(f"{kept.path} (kept in {self.content / kept.content}: {error})")
        for kept in reversed([each for each in self.kept if each.was == "folder"]):
            with suppress(PermissionError):  # somebody else's folder, in which the script could make files
                _give_properties(kept, kept.path)
        if failures:
            raise OSError(f"could not put back {', '.join(failures)}; remove the cause and restore again")
        return list({each.path: each for each in reversed(written)}.values())[::-1]

    def put_back(self, kept: Kept) -> list[Written]:
        """Makes the path what it was, and tells what the script left there."""
        if kept.was == "absent":
            return self._set_aside(kept.path)
        os.makedirs(os.path.dirname(kept.path), exist_ok=True)
        if kept.was == "file":
            return self._put_back_file(kept)
        if kept.was == "folder":
            return self._put_back_folder(kept)
        return self._put_back_link(kept)

    def _put_back_folder(self, kept: Kept) -> list[Written]:
        written = [] if _is_folder(kept.path) else self._set_aside(kept.path)
        os.makedirs(kept.path, exist_ok=True)
        with suppress(PermissionError):
            os.chmod(kept.path, kept.mode | stat.S_IRWXU)
        return written

    def _put_back_link(self, kept: Kept) -> list[Written]:
        if os.path.islink(kept.path) and os.readlink(kept.path) == kept.target:
            return []
        written = self._told(self._set_aside(kept.path), kept)
        os.symlink(kept.target, kept.path)
        return written

    def _put_back_file(self, kept: Kept) -> list[Written]:
        content = self.content / kept.content
        if not content.exists():  # put back by a call that was interrupted
            return self._told(self._lies_aside(kept.path), kept) if self._place(kept.path).exists() else []
        written = [] if _same(content, kept.path) else self._told(self._set_aside(kept.path), kept)
        _move_over(content, Path(kept.path))
        content.unlink(missing_ok=True)  # two names of one file: moving one over the other does nothing
        _give_properties(kept, kept.path)
        return written

    def _told(self, written: list[Written], kept: Kept) -> list[Written]:
        """What was set aside, told as a change of the one file that was there."""
        path = Path(kept.path)
        if any(each.path == path for each in written):
            return [Written(path, "changed", each.now, journaled=True) for each in written]
        return [Written(path, "removed", None, journaled=True), *written]

    def _set_aside(self, path: str) -> list[Written]:
        """Moves what is at the path, file by file; folders that are empty then go."""
        for file in list(_files(path)):
            if self.territory.holds(file) or not self.territory.holds(path):
                self._move(file)
        _remove_empty_folders(path)
        return self._lies_aside(path)

    def _lies_aside(self, path: str) -> list[Written]:
        place = self._place(path)
        return [
            Written(Path(path) / Path(file).relative_to(place), "new", Path(file), journaled=True)
            for file in sorted(_files(str(place)))
        ]

    def _place(self, path: str) -> Path:
        if self.folder is not None and Path(path).is_relative_to(self.folder):
            return self.moved_to / Path(path).relative_to(self.folder)
        return self.moved_to / "elsewhere" / Path(path).relative_to("/")

    def _move(self, file: str) -> None:
        place, status = self._place(file), os.lstat(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        if (status.st_dev, status.st_ino) in self.held:  # a kept file under another name: it must not share its content
            shutil.copy2(file, place)
            os.unlink(file)
        else:
            _move_over(Path(file), place)


def _move_over(source: Path, target: Path) -> None:
    """Moves a file, also to another file system; the target is whole at any time, unless its folder is read-only."""
    try:
        os.replace(source, target)
        return
    except OSError:
        beside = target.with_name(f".{target.name}.unplateau")
    try:
        shutil.copy2(source, beside, follow_symlinks=False)
        os.replace(beside, target)
    except PermissionError:
        shutil.copy2(source, target, follow_symlinks=False)
    with suppress(PermissionError):
        os.unlink(source)


def _give_properties(kept: Kept, path: str) -> None:
    os.chmod(path, kept.mode)
    os.utime(path, ns=kept.times_ns)


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _files(path: str) -> Iterator[str]:
    """The path, or the files and links below it; nothing where nothing is."""
    if not _is_folder(path):
        if os.path.lexists(path):
            yield path
        return
    for entry in list(os.scandir(path)):
        yield from _files(entry.path)


def _remove_empty_folders(path: str) -> None:
    if _is_folder(path):
        for entry in list(os.scandir(path)):
            _remove_empty_folders(entry.path)
        with suppress(OSError):  # something ignored is in it
            os.rmdir(path)


def _same(content: Path, path: str) -> bool:
    """Whether the file of this name holds the kept content, byte by byte."""
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) != content.stat().st_size:
        return False
    return os.path.samefile(content, path) or _equal_bytes(content, Path(path))


def _equal_bytes(one: Path, other: Path, size: int = 1 << 20) -> bool:
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            left, right = first.read(size), second.read(size)
            if left != right:
                return False
            if not left:
                return True


def _write(path: Path, result: Restored) -> None:
    """All or nothing: a result that is there is complete."""
    half = path.with_suffix(".half")
    half.write_text(json.dumps(asdict(result), default=str))
    half.replace(path)


def _read(path: Path) -> Restored:
    data = json.loads(path.read_text())
    written = (
        Written(Path(each["path"]), each["what"], each["now"] and Path(each["now"]), each["journaled"])
        for each in data["written"]
    )
    return Restored(tuple(written), data["complete"])
