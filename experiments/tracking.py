"""Where numbers go while a run is on: always to files, and to Weights & Biases on top.

This file is the only one that knows wandb. wandb never decides anything here: whether it goes online, what happens
when it fails and how long it may take are our choices, so that it can neither ask, nor hang, nor end a run.
"""

import contextlib
import csv
import io
import json
import netrc
import os
import shutil
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from experiments.config import RunConfig, TrackConfig, to_dict
from experiments.record import write_text

Mode = Literal["online", "offline", "disabled"]
Say = Callable[[str], None]

INIT_SECONDS = 20
FINISH_SECONDS = 60
GROUP_SECONDS = 30  # for the runs of a group together: a diagnosis must not wait minutes for its tracker
MODES_OF_WANDB: Mapping[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
SMALLER_IS_BETTER = ("train/loss", "val/loss", "val/bits_per_byte")
LARGER_IS_BETTER = ("val/bleu",)


@runtime_checkable
class Tracker(Protocol):
    """What a run tells while it is on. None of these calls may disturb the run."""

    def log(self, metrics: Mapping[str, int | float]) -> None:
        """One row of numbers; `step` and `tokens` among them say when."""

    def picture(self, name: str, png: bytes) -> None:
        """A PNG picture under a name such as "gradients"."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table under a name."""

    def file(self, path: Path, *, kind: str) -> None:
        """A finished file or folder, such as a report; `kind` says what it is."""

    def finish(self, *, failed: bool = False) -> None:
        """The last call; may be repeated."""


class FileTracker:
    """Metrics as JSON lines, pictures and tables as files, all below one folder.

    The file is closed after each line: a killed process loses none. A folder that cannot be written, or a full
    disk, is a ValueError with one line, here and nowhere else among the trackers.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def log(self, metrics: Mapping[str, int | float]) -> None:
        with self._place("metrics.jsonl") as path, path.open("a") as file:
            file.write(json.dumps(dict(metrics)) + "\n")

    def picture(self, name: str, png: bytes) -> None:
        with self._place("pictures", f"{name}.png") as path:
            path.write_bytes(png)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        with self._place("tables", f"{name}.csv") as path, path.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])

    def file(self, path: Path, *, kind: str) -> None:
        if self.folder.resolve() in Path(path).resolve().parents:
            return
        with self._place(kind, Path(path).name) as copy:
            if Path(path).is_dir():
                shutil.copytree(path, copy, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, copy)

    def finish(self, *, failed: bool = False) -> None:
        """Nothing is left to do: every call has finished its own file."""

    @contextlib.contextmanager
    def _place(self, *parts: str) -> Iterator[Path]:
        path = self.folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error


class WandbTracker:
    """A Weights & Biases run. Whatever it raises is reported once, and then it is left alone.

    Args:
        run: from `wandb.init`.
        say: takes one line for people.
    """

    def __init__(self, run: Any, *, say: Say) -> None:
        self._run = run
        self._say = say
        self._folder = Path(run.dir).parent
        self._alive = True
        self._guarded(self._define_metrics)

    def log(self, metrics: Mapping[str, int | float]) -> None:
        self._guarded(lambda: self._run.log(dict(metrics)))

    def picture(self, name: str, png: bytes) -> None:
        def send() -> None:
            import wandb
            from PIL import Image

            self._run.log({name: wandb.Image(Image.open(io.BytesIO(png)))})

        self._guarded(send)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._guarded(send)

    def file(self, path: Path, *, kind: str) -> None:
        name = f"{self._run.id}-{Path(path).stem}"
        self._guarded(lambda: self._run.log_artifact(str(path), name=name, type=kind))

    def finish(self, *, failed: bool = False) -> None:
        self._guarded(lambda: self._run.finish(exit_code=1 if failed else 0))
        self._alive = False

    def _define_metrics(self) -> None:
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("tokens", step_metric="step")
        self._run.define_metric("*", step_metric="step")
        for name in SMALLER_IS_BETTER:
            self._run.define_metric(name, step_metric="step", summary="min,last")
        for name in LARGER_IS_BETTER:
            self._run.define_metric(name, step_metric="step", summary="max,last")

    def _guarded(self, action: Callable[[], object]) -> None:
        if not self._alive:
            return
        try:
            action()
        except Exception as error:  # a dead wandb process raises whatever its socket raises
            self._alive = False
            self._say(f"W&B stopped ({_first_line(error)}); the record on disk goes on; {self._to_upload()}")

    def _to_upload(self) -> str:
        """How to send what has not arrived: W&B keeps a file of an online run, too."""
        return f"upload the rest with `wandb sync --include-online {self._folder}`"


class Trackers:
    """Several trackers as one: each call goes to all of them, in order."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, metrics: Mapping[str, int | float]) -> None:
        for each in self._trackers:
            each.log(metrics)

    def picture(self, name: str, png: bytes) -> None:
        for each in self._trackers:
            each.picture(name, png)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        for each in self._trackers:
            each.table(name, columns, rows)

    def file(self, path: Path, *, kind: str) -> None:
        for each in self._trackers:
            each.file(path, kind=kind)

    def finish(self, *, failed: bool = False) -> None:
        for each in self._trackers:
            each.finish(failed=failed)


@contextlib.contextmanager
def open_tracker(config: RunConfig, folder: Path, *, say: Say = print) -> Iterator[Tracker]:
    """W&B for one run, finished when the block ends; a tracker that does nothing where W&B is disabled or broken.

    Give it to `train`, which writes its own files in any case, and to whatever speaks about the run afterwards.

    Args:
        config: goes to W&B whole; its `track` says where runs are filed, and how.
        folder: the run's folder; W&B's own files go below it.
        say: takes one line for people: the address of the run, or how to upload it.
    Raises:
        ValueError: the folder cannot be written, or WANDB_MODE is none that there is.
    """
    mode = chosen_mode(config.track)
    started = None if mode == "disabled" else _wandb_tracker(config, Path(folder), mode, say)
    tracker = Trackers([] if started is None else [started])
    try:
        yield tracker
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish()


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """A run that is over already: what it was, and its rows of numbers; such as one side of a trial."""

    name: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, int | float]]


def track_group(config: RunConfig, folder: Path, runs: Sequence[ShortRun], *, say: Say = print) -> int:
    """Runs that are over, each as a W&B run of its own in the group of `config.track`; returns how many were told.

    Starting a run costs W&B up to a second, so this stops after GROUP_SECONDS. What W&B raises is said once, and the
    rest is left out.

    Args:
        config: its `track` says where the runs are filed, and how.
        folder: W&B's own files go below it, beside those of the run that these belong to.
    """
    mode = chosen_mode(config.track)
    if mode == "disabled":
        return 0
    began = time.monotonic()
    for told, each in enumerate(runs):
        if time.monotonic() - began > GROUP_SECONDS:
            return told
        try:
            _tell_whole(_start(config, folder, mode, os.urandom(4).hex(), name=each.name, about=each.config), each)
        except Exception as error:  # wandb raises its own errors, those of its process and those of the network
            say(f"W&B: no more runs of the group {config.track.group} ({_first_line(error)})")
            return told
    return len(runs)


def _tell_whole(run: Any, short: ShortRun) -> None:
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    for row in short.rows:
        run.log(dict(row))
    run.finish(exit_code=0)


@contextlib.contextmanager
def watched_by_wandb(
    model: Any, folder: Path, *, log: Literal["gradients", "parameters", "all"] = "all", log_freq: int = 1
) -> Iterator[Any]:
    """An offline W&B run with `wandb.watch` on the model; for measuring it.

    Args:
        folder: W&B's own files go below it.
        log, log_freq: what is logged and at every how many passes; by itself W&B takes "gradients" and 1000.
    """
    import wandb

    # not through _start: watch writes to wandb's global run, and a run made with reinit="create_new" is none
    settings = wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS, save_code=False)
    run = wandb.init(mode="offline", dir=str(folder), project="unplateau", settings=settings)
    try:
        run.watch(model, log=log, log_freq=log_freq)
        yield run
    finally:
        run.finish()


def run_of_the_script() -> dict[str, str]:
    """Group and project of the W&B run that somebody else's code in this process has begun; nothing is imported."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    found = {name: getattr(run, name, None) for name in ("group", "project")}
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def chosen_mode(track: TrackConfig) -> Mode:
    """Explicit setting, then WANDB_MODE, then online with a login in sight, otherwise offline."""
    if track.mode != "auto":
        return track.mode
    wished = os.environ.get("WANDB_MODE")
    if wished:
        if wished not in MODES_OF_WANDB:
            raise ValueError(f"WANDB_MODE ({wished!r}) must be one of {', '.join(MODES_OF_WANDB)}")
        return MODES_OF_WANDB[wished]
    return "online" if has_login() else "offline"


def has_login() -> bool:
    """Whether a W&B key lies in WANDB_API_KEY or in the netrc file; nothing is asked and no network is used."""
    return bool(os.environ.get("WANDB_API_KEY")) or any(_is_wandb_host(host) for host in _netrc_hosts())


def _netrc_hosts() -> list[str]:
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return list(netrc.netrc(path).hosts)
    except (OSError, netrc.NetrcParseError):
        return []


def _is_wandb_host(host: str) -> bool:
    server = os.environ.get("WANDB_BASE_URL")
    return host == urllib.parse.urlsplit(server).hostname if server else "wandb" in host


def _wandb_tracker(config: RunConfig, folder: Path, mode: Mode, say: Say) -> WandbTracker | None:
    """A started run; offline where online fails, None where even that does."""
    name = _run_id(folder)
    try:
        run = _start(config, folder, mode, name)
    except Exception as error:  # wandb raises its own errors, those of its process and those of the network
        if mode == "offline":
            say(f"W&B could not start ({_first_line(error)}); the record on disk has everything")
            return None
        say(f"W&B is not reachable ({_first_line(error)}); tracking offline")
        _run_id_path(folder).unlink()  # wandb refuses the id of a start that failed
        return _wandb_tracker(config, folder, "offline", say)
    say(f"W&B: {run.url}" if mode == "online" else f"W&B: offline, upload with `wandb sync {Path(run.dir).parent}`")
    return WandbTracker(run, say=say)


def _start(
    config: RunConfig,
    folder: Path,
    mode: Mode,
    id_: str,
    *,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Any:
    """A W&B run; `name` and `about` in place of the configuration's own, for a run beside it."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")  # the setting below does not reach its login
    import wandb

    settings = wandb.Settings(
        console="off",
        silent=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
        reinit="create_new",
        save_code=False,
    )
    return wandb.init(
        mode=mode,
        dir=str(folder),
        project=config.track.project,
        name=name or config.name,
        group=config.track.group,
        job_type=config.track.job_type,
        tags=list(config.track.tags),
        notes=config.track.notes,
        config=to_dict(config) if about is None else dict(about),
        id=id_,
        resume="allow" if mode == "online" else None,
        settings=settings,
    )


def _run_id(folder: Path) -> str:
    """The id of this folder's run: a resumed run continues its own curve."""
    path = _run_id_path(folder)
    if not path.exists():
        write_text(path, os.urandom(4).hex())
    return path.read_text()


def _run_id_path(folder: Path) -> Path:
    return folder / "wandb-id.txt"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
