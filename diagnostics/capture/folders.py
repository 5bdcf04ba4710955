"""Which folders are a script's own, what lies in them, and a copy of them to run in."""

import json
import os
import shutil
import site
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diagnostics.capture.records import Written

FILES_IN_A_SNAPSHOT = 20_000  # about 0.1 s
MADE_BY_TOOLS = frozenset({".git", "__pycache__", "node_modules"})
CACHES = (
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "TORCH_HOME",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "MPLCONFIGDIR",
    "PYTHONPYCACHEPREFIX",
)


@dataclass(frozen=True)
class Territory:
    """Whose files are kept: everybody's but those below `ignored`; where folders are nested, the innermost one decides.

    Args:
        watched: the script's own folders; what it writes below the first is shown relative to it.
        ignored: folders that are nobody's work: the diagnosis, caches, the temporary directory.
    """

    watched: tuple[Path, ...]
    ignored: tuple[Path, ...]
    _decides: dict[str, bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        decides = dict.fromkeys(map(os.path.realpath, self.watched), True)
        decides |= dict.fromkeys(map(os.path.realpath, self.ignored), False)
        object.__setattr__(self, "_decides", decides)

    def holds(self, path: str) -> bool:
        """Whether the file of this name (absolute, without links) is kept."""
        if path.endswith(".pyc") or "/__pycache__" in path:
            return False
        while (decision := self._decides.get(path)) is None:
            folder = os.path.dirname(path)
            if folder == path:
                return True
            path = folder
        return decision

    def without(self, *folders: Path) -> "Territory":
        """The same, but for these folders."""
        return Territory(self.watched, (*self.ignored, *folders))

    def as_json(self) -> dict[str, list[str]]:
        """Plain data; `Territory.of_json` reads it."""
        return {"watched": [*map(str, self.watched)], "ignored": [*map(str, self.ignored)]}

    @classmethod
    def of_json(cls, data: Mapping[str, list[str]]) -> "Territory":
        """What `as_json` gave."""
        return cls(tuple(map(Path, data["watched"])), tuple(map(Path, data["ignored"])))


def nobodys_folders() -> tuple[Path, ...]:
    """Folders of this machine that hold no one's work: devices, caches, installed packages, the temporary directory."""
    caches = (os.environ.get(name) for name in CACHES)
    packages = (*site.getsitepackages(), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    fixed = ("/dev", "/proc", "/sys", "~/.cache", tempfile.gettempdir())
    return tuple(Path(path).expanduser() for path in (*fixed, *packages, *caches) if path)


@dataclass(frozen=True)
class Snapshot:
    """Size in bytes and time of the last change (nanoseconds) of the files below some folders.

    Args:
        files: by path.
        complete: False where there were more files than were looked at.
    """

    files: Mapping[str, tuple[int, int]]
    complete: bool

    def as_json(self) -> str:
        """Text that `Snapshot.of_json` reads."""
        return json.dumps({"files": dict(self.files), "complete": self.complete})

    @classmethod
    def of_json(cls, text: str) -> "Snapshot":
        """What `as_json` gave."""
        data = json.loads(text)
        return cls({path: (size, time) for path, (size, time) in data["files"].items()}, data["complete"])


def snapshot(territory: Territory, limit: int = FILES_IN_A_SNAPSHOT) -> Snapshot:
    """What lies in the watched folders now: at most `limit` files, without what is ignored or made by tools."""
    files: dict[str, tuple[int, int]] = {}
    for folder in dict.fromkeys(map(os.path.realpath, territory.watched)):
        for entry in _below(folder, lambda entry: territory.holds(entry.path)):
            if len(files) >= limit and entry.path not in files:
                return Snapshot(files, complete=False)
            if not entry.is_dir(follow_symlinks=False):
                files.update(_size_and_time(entry))
    return Snapshot(files, complete=True)


def _size_and_time(entry: os.DirEntry[str]) -> dict[str, tuple[int, int]]:
    try:
        now = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # removed since its folder was read
        return {}
    return {entry.path: (now.st_size, now.st_mtime_ns)}


def changes(before: Snapshot, after: Snapshot) -> tuple[Written, ...]:
    """The files that differ, as they are now; without those that an incomplete snapshot may have left out."""
    told = []
    for path in sorted(before.files.keys() | after.files.keys()):
        place = Path(path)
        if path not in before.files:
            told += [Written(place, "new", place, journaled=False)] * before.complete
        elif path not in after.files:
            told += [Written(place, "removed", None, journaled=False)] * (not os.path.lexists(path))
        elif before.files[path] != after.files[path]:
            told.append(Written(place, "changed", place, journaled=False))
    return tuple(told)


def scratch_copy(folder: Path, into: Path, limit_bytes: int) -> Path:
    """A copy of `folder` to run a script in.

    Version control, virtual environments, caches and W&B's folder are left out. Links out of the folder stay as they
    are, links within it lead within the copy.

    Args:
        folder: the script's working folder.
        into: where the copy goes; it may be below `folder`, and must not hold anything.
        limit_bytes: how much may be copied.

    Returns:
        `into`.

    Raises:
        ValueError: `into` holds something, or the files are larger than the limit; nothing is copied then.
    """
    folder, into = Path(os.path.realpath(folder)), Path(os.path.realpath(into))
    if into.exists() and any(into.iterdir()):
        raise ValueError(f"the scratch folder ({into}) must be empty; name another one or remove it")
    entries = list(_below(str(folder), lambda entry: entry.name != "wandb" and entry.path != str(into)))
    _check_size(folder, entries, limit_bytes)
    into.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        _copy(entry, folder, into / Path(entry.path).relative_to(folder))
    return into


def _check_size(folder: Path, entries: list[os.DirEntry[str]], limit_bytes: int) -> None:
    sizes = {Path(entry.path): entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False)}
    total = sum(sizes.values())
    if total > limit_bytes:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ValueError(
            f"the files in {folder} ({total:,} bytes) must not be larger than the limit of a scratch copy"
            f" ({limit_bytes:,} bytes); the largest is {largest.relative_to(folder)} ({sizes[largest]:,} bytes): move"
            " what the script does not need elsewhere, raise the limit, or run without a copy: what changes is put back"
        )


def _copy(entry: os.DirEntry[str], folder: Path, to: Path) -> None:
    if entry.is_symlink():
        os.symlink(_link_target(Path(entry.path), folder, to), to)
    elif entry.is_dir():
        to.mkdir()
    else:
        shutil.copy2(entry.path, to)


def _link_target(link: Path, folder: Path, to: Path) -> str:
    """Where the copy of a link points to: within the copy for one within the folder, otherwise where it did."""
    target = os.path.normpath(link.parent / os.readlink(link))
    if not Path(target).is_relative_to(folder):
        return target
    return os.path.relpath(target, link.parent)


def _below(folder: str, wanted: Callable[[os.DirEntry[str]], bool]) -> Iterator[os.DirEntry[str]]:
    """Files, links and folders below one, without what tools make; a folder comes before what is in it."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # gone, or not ours to look at
        return
    for entry in filter(wanted, entries):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in MADE_BY_TOOLS and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                yield entry
                yield from _below(entry.path, wanted)
        elif entry.is_symlink() or entry.is_file():  # not: pipes and sockets
            yield entry
