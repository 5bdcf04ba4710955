"""What a run leaves on disk: `config.json`, `metrics.jsonl`, `environment.json`, `tokenizer/`, `checkpoint.pt`.

The record is written while the run goes on, so it is usable whenever the run stops, and however.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from experiments.config import RunConfig, from_dict, to_dict

if TYPE_CHECKING:
    import pandas as pd

State = Literal["running", "finished", "interrupted", "failed"]
Standing = Literal["running", "finished", "interrupted", "failed", "killed"]
STALE_SECONDS = 3600  # ours: a run that cannot be looked at and has logged nothing for so long counts as killed
LIBRARIES = ("unplateau", "torch", "numpy", "wandb")


@dataclass(frozen=True)
class RunRecord:
    """One run's folder; everything is read from disk when asked for."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> "RunRecord":
        """A new record: its folder, configuration and environment.

        Raises:
            ValueError: the folder cannot be written, or holds a run already.
        """
        record = cls(Path(folder))
        if record.config_path.exists():
            raise ValueError(f"{folder} already holds a run; resume it or choose another folder")
        record.set_config(config)
        write_text(record.folder / "environment.json", json.dumps(environment(config.seed), indent=2) + "\n")
        record.set_state("running")
        return record

    @classmethod
    def open(cls, folder: Path) -> "RunRecord":
        """The record in `folder`; raises ValueError if there is none."""
        record = cls(Path(folder))
        if not record.config_path.exists():
            raise ValueError(f"{folder} holds no run: it has no config.json")
        return record

    @property
    def config_path(self) -> Path:
        """Where the configuration lies."""
        return self.folder / "config.json"

    @property
    def metrics_path(self) -> Path:
        """Where the metrics lie, one JSON object per line."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        """Where the weights lie, with all that is needed to go on."""
        return self.folder / "checkpoint.pt"

    @property
    def tokenizer_path(self) -> Path:
        """The folder of the tokenizer; `bpe.load` reads it."""
        return self.folder / "tokenizer"

    @property
    def config(self) -> RunConfig:
        """The configuration that the run was started or last resumed with."""
        return from_dict(self.tree)

    @property
    def tree(self) -> dict[str, Any]:
        """The configuration as it lies on disk, also where another version of this code wrote it."""
        return _read_json(self.config_path)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, seed, git commit and platform of the run."""
        return _read_json(self.folder / "environment.json")

    @property
    def state(self) -> State:
        """How the run stands; "running" is also what a killed run leaves."""
        return cast(State, self._written_state()["state"])

    @property
    def standing(self) -> Standing:
        """How the run stands, a killed one told from one that is on: by its process, or else by its last line."""
        about = self._written_state()
        if about["state"] != "running":
            return cast(Standing, about["state"])
        on = is_on(about)
        return "running" if (self.is_fresh if on is None else on) else "killed"

    def _written_state(self) -> dict[str, Any]:
        path = self.folder / "state.json"
        about = _read_json(path)
        if about.get("state") not in get_args(State):
            raise ValueError(
                f"{path} is damaged: its state ({about.get('state')!r}) is none of {', '.join(get_args(State))}"
            )
        return about

    @property
    def is_fresh(self) -> bool:
        """Whether something was logged within STALE_SECONDS."""
        return time.time() - self.last_written < STALE_SECONDS

    @property
    def last_written(self) -> float:
        """When the last metrics were written, or the configuration where there are none; seconds since 1970."""
        return (self.metrics_path if self.metrics_path.exists() else self.config_path).stat().st_mtime

    def set_config(self, config: RunConfig) -> None:
        """Write down the configuration; a resumed run may be longer than it was."""
        write_text(self.config_path, json.dumps(to_dict(config), indent=2) + "\n")

    def set_state(self, state: State) -> None:
        """Write down how the run stands, and while it is on, in which process."""
        where = process(os.getpid()) if state == "running" else {}
        write_text(self.folder / "state.json", json.dumps({"state": state, **where}) + "\n")

    def rows(self) -> list[dict[str, int | float]]:
        """Every line of the metrics in the order of writing; a line that a crash tore is left out.

        Raises:
            ValueError: a line before the last is no table in JSON.
        """
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().rpartition("\n")[0]  # what follows the last line end was never finished
        try:
            rows: list[Any] = json.loads(f"[{lines.replace(chr(10), ',')}]")
        except ValueError:
            rows = []
        if len(rows) != len(lines.splitlines()) or not all(isinstance(row, dict) for row in rows):
            damaged = next(number for number, line in enumerate(lines.split("\n"), start=1) if not _is_table(line))
            raise ValueError(f"{self.metrics_path} is damaged in line {damaged}")
        return rows

    @property
    def metrics(self) -> "pd.DataFrame":
        """The metrics as a table: a row per line, a column per metric, NaN where a line has no such metric."""
        import pandas as pd  # half a second, for those who want a table

        return pd.DataFrame(self.rows())

    def forget_after(self, step: int) -> None:
        """Drop the metrics of later steps: a resumed run measures them again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["step"] <= step]
        write_text(self.metrics_path, "".join(kept))


def process(pid: int) -> dict[str, Any]:
    """A process, so that others can tell whether it is still there: host, id, when it began.

    The beginning is in ticks since the machine's start, from Linux's /proc; None elsewhere. Ids are used again, a pair
    of id and beginning is not.
    """
    return {"host": platform.node(), "pid": pid, "began_ticks": began_ticks(pid)}


def is_on(about: Mapping[str, Any]) -> bool | None:
    """Whether the process that `process()` told about is still there; None where that cannot be seen from here."""
    if about.get("host") != platform.node() or about.get("began_ticks") is None:
        return None
    return began_ticks(about["pid"]) == about["began_ticks"]


def began_ticks(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start; None where it is over, or there is no /proc."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = about.rpartition(")")[2].split()  # proc(5); the name before ")" may hold spaces
    return None if state in "ZX" else int(fields[18])  # Z, X: dead, and nobody has asked how it ended


def environment(seed: int) -> dict[str, Any]:
    """What a run depends on besides its configuration."""
    return {
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor_cores": os.cpu_count(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "git_commit": git_commit(),
        "command": sys.argv,
    }


def git_commit() -> str | None:
    """The commit of this code, with "+changes" if files differ from it; None outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return commit and commit + ("+changes" if changes else "")


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move, with its folders; raises ValueError where that cannot be done."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text)
        os.replace(unfinished, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is damaged: it holds no table")
    return dict(content)


def _is_table(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
