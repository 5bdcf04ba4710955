"""Records written by hand: what a run leaves, without the run."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.config import override, to_dict
from experiments.recipes import small

Rows = Iterable[Mapping[str, float]]


def write_record(folder: Path, rows: Rows, *, state: str = "finished", **changes: Any) -> Path:
    """A record with these rows; `optim__lr=0.1` changes `optim.lr`."""
    config = override(small(), {name.replace("__", "."): value for name, value in changes.items()})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    (folder / "environment.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"state": state}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def falling(end: float, *, steps: int = 20, begin: float = 5.0) -> list[dict[str, float]]:
    """Losses on a straight line, and the held-out bits per byte at the end."""
    rows: list[dict[str, float]] = [
        {
            "step": step,
            "tokens": 32 * step,
            "seconds": 0.5 * step,
            "train/loss": begin + (end - begin) * step / steps,
        }
        for step in range(1, steps + 1)
    ]
    last = {name: rows[-1][name] for name in ("step", "tokens", "seconds")}
    return [*rows, {**last, "val/loss": end, "val/bits_per_byte": end / 2}]


def make_old(folder: Path, days: float) -> None:
    """Set back every file of a record."""
    for file in folder.rglob("*"):
        then = file.stat().st_mtime - days * 86400
        os.utime(file, (then, then))
