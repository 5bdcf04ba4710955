"""The runs on this disk: where they are, how they stand, what they came to, and how to be rid of them.

A folder of runs is read as records where there are any below it; W&B's own offline directories, which the trainer
leaves inside a record, count only where no record does.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.record import RunRecord
from experiments.run import BEST_KNOWN, Logged, Run, flat

RECORD_FILES = (
    "config.json",
    "metrics.jsonl",
    "environment.json",
    "state.json",
    "checkpoint.pt",
    "wandb-id.txt",
    "tokenizer",
    "pictures",
    "tables",
    "wandb",
)
"""What a run writes, and all that is ever removed."""


@dataclass(frozen=True)
class Found:
    """What lies at a place: its runs, and a line for each that cannot be read."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()


def is_record(folder: Path) -> bool:
    """Whether a folder is the record of a run; the results of a check have no state."""
    return (folder / "config.json").is_file() and (folder / "state.json").is_file()


def record_run(folder: Path) -> Run:
    """The run in a record.

    Raises:
        ValueError: a file of the record is damaged.
    """
    record = RunRecord.open(folder)
    config = flat(record.tree)
    environment = folder / "environment.json"
    return Run(
        name=str(config.get("name", folder.name)),
        id=folder.name,
        where=str(folder),
        state=record.standing,
        began=(environment if environment.exists() else record.config_path).stat().st_mtime,
        last_written=record.last_written,
        config=config,
        logged=_logged(record),
    )


def _logged(record: RunRecord) -> Logged:
    rows = record.rows()
    try:
        return Logged.of(rows)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{record.metrics_path} holds what is no number: {error}") from error


def local_runs(place: Path) -> Found:
    """The run at a place, or every run below it, in the order of their paths.

    Raises:
        ValueError: there is no such place, no run there, or the one run named cannot be read.
    """
    if not place.exists():
        raise ValueError(f"{place} does not exist")
    if is_record(place):
        return Found((record_run(place),))
    records, offline = _places(place)
    if not records and not offline:
        raise ValueError(f"{place} holds no run: nothing below it has config.json and state.json, or is a .wandb file")
    return _records(records) if records else _offline(offline)


def _places(folder: Path) -> tuple[list[Path], list[Path]]:
    """Records and W&B offline files at or below a folder; nothing inside of either."""
    if folder.is_file():
        return [], [folder] if folder.suffix == ".wandb" else []
    records: list[Path] = []
    offline: list[Path] = []
    for at, folders, files in os.walk(folder):
        streams = [Path(at, name) for name in files if name.startswith("run-") and name.endswith(".wandb")]
        if "config.json" in files and "state.json" in files:
            records.append(Path(at))
        offline += streams
        folders[:] = [] if streams or records[-1:] == [Path(at)] else sorted(folders)
    return records, offline


def _records(folders: list[Path]) -> Found:
    runs: list[Run] = []
    left_out: list[str] = []
    for folder in folders:
        try:
            runs.append(record_run(folder))
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    return Found(tuple(runs), tuple(left_out))


def _offline(files: list[Path]) -> Found:
    from experiments.wandb_runs import offline_runs

    return offline_runs(files)


def ranked_by(counts: Mapping[str, int]) -> str:
    """The metric that runs are judged by unless told otherwise: the first of BEST_KNOWN that most of them measured.

    Args:
        counts: metric -> how many runs measured it.
    Raises:
        ValueError: none of BEST_KNOWN was measured; the message lists what there is.
    """
    most = max(counts.get(metric, 0) for metric in BEST_KNOWN)
    if not most:
        known = ", ".join(sorted(counts)) or "nothing"
        raise ValueError(f"no run measured {', '.join(BEST_KNOWN)}; name a metric, of: {known}")
    return next(metric for metric in BEST_KNOWN if counts.get(metric, 0) == most)


def removable(folder: Path) -> Iterator[Path]:
    """The files and folders of a record that a run wrote itself."""
    return (folder / name for name in RECORD_FILES if (folder / name).exists())


def size_bytes(folder: Path) -> int:
    """How much of the disk a record takes, without what others put beside it."""
    inside = (file for path in removable(folder) for file in (path.rglob("*") if path.is_dir() else (path,)))
    return sum(file.lstat().st_size for file in inside if not file.is_dir())


def remove(folder: Path) -> bool:
    """Remove what a run wrote; its folder too, if nothing else is in it. Returns whether the folder is gone.

    Raises:
        ValueError: it is no record, or its run is on.
    """
    if not is_record(folder):
        raise ValueError(f"{folder} is no record of a run; nothing is removed")
    if RunRecord(folder).standing == "running":
        raise ValueError(f"the run in {folder} is on; nothing is removed")
    for path in list(removable(folder)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if any(folder.iterdir()):
        return False
    folder.rmdir()
    return True
