"""Keeps every file that a script is about to change, before it does.

Python tells an audit hook of files opened, moved and removed before it acts; the few writers in C that it does not see
announce themselves. A file is kept by a second name for its content (a hard link: instant at any size), and a script
that then writes into it is given content of its own. Across file systems the file is copied.
"""

import functools
import importlib
import itertools
import json
import os
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from diagnostics.capture.folders import Territory, nobodys_folders, snapshot
from diagnostics.capture.records import CONTENT, LINES, START, Kept, append_line, read_lines

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
NAMELESS = getattr(os, "O_TMPFILE", 0)
NOT_SEEN = (  # module, function; the second argument is the path
    ("torch", "save"),
    ("torch.serialization", "save"),
    ("torch.jit", "save"),
    ("safetensors.torch", "serialize_file"),
    ("safetensors.numpy", "serialize_file"),
)


class Journal:
    """While it is on, whatever file this process and its forked children change is kept first.

    Leave it on as long as code of the script may run; `restore` then puts everything back, from any process, also after
    this one was killed.

    Args:
        keep: a folder for this journal alone; files are kept at once on the script's file system, and copied elsewhere.
        watched: the script's own folders; here a snapshot before and after tells of writers that cannot be seen.
        ignored: folders that the script may write to, beside caches, the temporary directory and installed packages.

    Raises:
        ValueError: `keep` holds a journal already, or another journal is on.
        OSError: in the script: a file that it is about to change cannot be kept.
    """

    def __init__(self, keep: Path, *, watched: tuple[Path, ...], ignored: tuple[Path, ...] = ()) -> None:
        self.keep = Path(os.path.realpath(keep))
        self.territory = Territory(watched, (*nobodys_folders(), *ignored, self.keep))
        self._lines, self._content = self.keep / LINES, self.keep / CONTENT
        self._seen: set[str] = set()
        self._absent: set[str] = set()
        self._read_up_to = 0
        self._writers: list[tuple[Any, str, Callable[..., Any]]] = []

    def __enter__(self) -> "Journal":
        if self._lines.exists():
            raise ValueError(f"{self.keep} holds a journal already; restore it and use another folder")
        if _SWITCH.journal is not None:
            raise ValueError(f"a journal is on already ({_SWITCH.journal.keep}); only one can be")
        self._content.mkdir(parents=True)
        start = {"territory": self.territory.as_json(), "snapshot": snapshot(self.territory).as_json()}
        (self.keep / START).write_text(json.dumps(start))
        self._lines.touch()
        self._listen_to_writers()
        _SWITCH.turn_on(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _SWITCH.journal = None
        for module, name, function in self._writers:
            if getattr(getattr(module, name), "__wrapped__", None) is function:  # not: the script put its own there
                setattr(module, name, function)

    def before_writing(self, path: str, *, empties: bool) -> None:
        """Keeps a file that is about to be opened for writing.

        Args:
            path: the file; links are followed.
            empties: the writer discards what is there.
        """
        real = os.path.realpath(path)
        if self.territory.holds(real):
            self.keep_as_it_is(real)
        self._detach(real, empties)

    def before_changing(self, path: str) -> None:
        """Keeps a file, link or folder that is about to be removed, replaced or given other properties."""
        if os.path.isabs(path) and self.territory.holds(path):  # not: a pipe, known by its descriptor alone
            self.keep_as_it_is(path)

    def before_moving(self, source: str, target: str) -> None:
        """Keeps all that is about to leave `source`, and what is at `target`, wherever what was kept goes."""
        for path in _tree(source):
            self.before_changing(path)
            if self.territory.holds(path) or self.territory.holds(target):
                self.keep_as_it_is(target + path[len(source) :])

    def keep_as_it_is(self, path: str) -> None:
        """Writes down what the path and its folder are, unless that is known: from here, or from another process."""
        places = [place for place in (os.path.dirname(path), path) if place == path or self.territory.holds(place)]
        if all(map(self._known, places)):
            return
        self._catch_up()
        for place in places:
            if not self._known(place):
                self._note(place)

    def _known(self, path: str) -> bool:
        """Whether it is written down what the path was; in a folder that was not there, nothing was."""
        return path in self._seen or any(folder in self._absent for folder in _with_parents(path))

    def _catch_up(self) -> None:
        """Learns what forked children have kept, or the process that this one was forked from."""
        if os.stat(self._lines).st_size != self._read_up_to:
            kept, self._read_up_to = read_lines(self._lines, self._read_up_to)
            self._seen |= {each.path for each in kept}
            self._absent |= {each.path for each in kept if each.was == "absent"}

    def _note(self, path: str) -> None:
        kept = self._as_it_is(path)
        if kept is not None:
            append_line(self._lines, kept)
            self._catch_up()

    def _as_it_is(self, path: str) -> Kept | None:
        try:
            now = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return Kept(path=path, was="absent")
        mode, times = stat.S_IMODE(now.st_mode), (now.st_atime_ns, now.st_mtime_ns)
        if stat.S_ISLNK(now.st_mode):
            return Kept(path=path, was="link", target=os.readlink(path))
        if stat.S_ISDIR(now.st_mode):
            return Kept(path=path, was="folder", mode=mode, times_ns=times)
        if stat.S_ISREG(now.st_mode):
            return Kept(path=path, was="file", mode=mode, times_ns=times, content=self._kept_content(path))
        return None  # a pipe, a socket or a device holds nothing

    def _kept_content(self, path: str) -> str:
        kept = self._new_name()
        try:
            os.link(path, kept, follow_symlinks=False)
        except OSError:  # another file system, one without hard links, or a stranger's file
            self._copy(path, kept)
        return kept.name

    def _copy(self, path: str, kept: Path) -> None:
        try:
            shutil.copyfile(path, kept)
        except OSError as error:
            kept.unlink(missing_ok=True)
            raise OSError(
                f"the script may not change {path}: its {os.path.getsize(path):,} bytes cannot be kept in {self.keep}"
                f" ({error}); make room there or run the script in a copy of its folder"
            ) from error

    def _new_name(self) -> Path:
        return self._content / secrets.token_hex(8)

    def _detach(self, path: str, empties: bool) -> None:
        """Gives a file content of its own where the journal holds the one that it has."""
        try:
            now = os.stat(path)
        except OSError:
            return
        if now.st_nlink == 1 or not stat.S_ISREG(now.st_mode) or not os.access(path, os.W_OK):
            return
        holders = [entry.path for entry in os.scandir(self._content) if entry.inode() == now.st_ino]
        if holders and now.st_dev == os.stat(self._content).st_dev:
            self._replace(path, holders, now, empties)

    def _replace(self, path: str, holders: list[str], now: os.stat_result, empties: bool) -> None:
        own = self._new_name()
        own.touch() if empties else self._copy(path, own)
        shutil.copystat(path, own)
        try:
            os.replace(own, path)
        except OSError:  # a folder that forbids new files: the journal takes the copies
            for holder in holders:
                shutil.copyfile(path, own)
                os.replace(own, holder)

    def _listen_to_writers(self) -> None:
        for module_name, name in NOT_SEEN:
            if find_spec(module_name.partition(".")[0]) is not None:
                module = importlib.import_module(module_name)
                function = getattr(module, name, None)
                if function is not None:
                    self._writers.append((module, name, function))
                    setattr(module, name, _announcing(function))


class _Switch:
    """The one audit hook of a process, which cannot be taken away again, and the journal that it serves."""

    def __init__(self) -> None:
        self.journal: Journal | None = None
        self.hooked = False
        self.thread = threading.local()

    def turn_on(self, journal: Journal) -> None:
        self.journal = journal
        if not self.hooked:
            sys.addaudithook(_hook)
            self.hooked = True

    @contextmanager
    def own_work(self) -> Iterator[None]:
        """What the journal itself does to files is not told to it."""
        self.thread.busy = True
        try:
            yield
        finally:
            self.thread.busy = False


_SWITCH = _Switch()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    before = BEFORE.get(event)
    if before is None or _SWITCH.journal is None or getattr(_SWITCH.thread, "busy", False):
        return
    with _SWITCH.own_work():
        before(_SWITCH.journal, *arguments)


def _announcing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; its second argument, where it is a path, is told to the journal first."""

    @functools.wraps(function)
    def announced(*args: Any, **kwargs: Any) -> Any:
        path = next(itertools.chain(args[1:2], (kwargs[name] for name in ("f", "filename") if name in kwargs)), None)
        if isinstance(path, str | os.PathLike) and _SWITCH.journal is not None:
            with _SWITCH.own_work():
                _SWITCH.journal.before_writing(os.fsdecode(path), empties=True)
        return function(*args, **kwargs)

    return announced


def _opened(journal: Journal, path: Any, mode: str | None, flags: int) -> None:
    writes = flags & WRITING or not set(mode or "").isdisjoint("wax+")
    if isinstance(path, int) or not writes or (NAMELESS and flags & NAMELESS == NAMELESS):
        return
    if flags & os.O_EXCL and os.path.lexists(path):  # refused
        return
    journal.before_writing(os.fsdecode(path), empties=bool(flags & os.O_TRUNC))


def _truncated(journal: Journal, path: Any, length: int) -> None:
    if not isinstance(path, int):  # a descriptor was opened for writing before
        journal.before_writing(os.fsdecode(path), empties=False)


def _removed(journal: Journal, path: Any, folder: int) -> None:
    journal.before_changing(_itself(path, folder))


def _made_folder(journal: Journal, path: Any, mode: int, folder: int) -> None:
    place = _itself(path, folder)
    if not os.path.lexists(place):
        journal.before_changing(place)


def _moved(journal: Journal, source: Any, target: Any, source_folder: int, target_folder: int) -> None:
    journal.before_moving(_itself(source, source_folder), _itself(target, target_folder))


def _given_second_name(journal: Journal, source: Any, target: Any, source_folder: int, target_folder: int) -> None:
    """Both names are of one file for the script, and of another than the one that is kept."""
    journal.before_writing(_itself(source, source_folder), empties=False)
    journal.before_changing(_itself(target, target_folder))


def _made_link(journal: Journal, source: Any, target: Any, folder: int) -> None:
    journal.before_changing(_itself(target, folder))


def _given_properties(journal: Journal, path: Any, *rest: Any) -> None:
    folder = rest[-1] if rest and isinstance(rest[-1], int) else -1
    journal.before_changing(os.path.realpath(_itself(path, folder)))


def _given_attribute(journal: Journal, path: Any, *rest: Any) -> None:
    journal.before_changing(os.path.realpath(_itself(path, -1)))


def _opened_database(journal: Journal, path: Any) -> None:
    name = os.fsdecode(path)
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    if name and name != ":memory:":
        journal.before_writing(name, empties=False)
        for beside in ("-journal", "-wal", "-shm"):
            journal.before_changing(os.path.realpath(name) + beside)


BEFORE: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "open": _opened,
        "os.chmod": _given_properties,
        "os.chown": _given_properties,
        "os.link": _given_second_name,
        "os.mkdir": _made_folder,
        "os.remove": _removed,
        "os.removexattr": _given_attribute,
        "os.rename": _moved,
        "os.rmdir": _removed,
        "os.setxattr": _given_attribute,
        "os.symlink": _made_link,
        "os.truncate": _truncated,
        "os.utime": _given_properties,
        "sqlite3.connect": _opened_database,
    }
)


def _itself(path: Any, folder: int) -> str:
    """The absolute name of a path; only links in its folders are followed.

    Args:
        path: a name, or the descriptor of an open file.
        folder: descriptor of the folder that a relative name is in; -1: the working folder.
    """
    if isinstance(path, int):
        return _name_of(path)
    name = os.fsdecode(path)
    if folder >= 0:
        name = os.path.join(_name_of(folder), name)
    parent, last = os.path.split(os.path.abspath(name))
    return os.path.join(os.path.realpath(parent), last)


def _name_of(descriptor: int) -> str:
    if sys.platform == "linux":
        return os.readlink(f"/proc/self/fd/{descriptor}")
    import fcntl

    return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))


def _tree(path: str) -> Iterator[str]:
    """A path and, where it is a folder, everything below."""
    yield path
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in list(os.scandir(path)):
            yield from _tree(entry.path)


def _with_parents(path: str) -> Iterator[str]:
    yield path
    while (folder := os.path.dirname(path)) != path:
        yield folder
        path = folder
