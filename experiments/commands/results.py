"""Where a check leaves its numbers and its picture: files first, Weights & Biases on top."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from matplotlib.figure import Figure

from diagnostics.diagnosis import to_json
from experiments.commands.console import tell
from experiments.config import RunConfig, override, to_dict
from experiments.pictures import png, svg
from experiments.record import write_text
from experiments.tracking import FileTracker, Tracker, Trackers, open_tracker


@dataclass(frozen=True)
class Results:
    """One check's folder and its trackers."""

    folder: Path
    tracker: Tracker

    def numbers(self, name: str, value: Any) -> None:
        """Keep any plain data as `NAME.json`."""
        path = self.folder / f"{name}.json"
        write_text(path, json.dumps(to_json(value), indent=1) + "\n")
        tell("numbers", path)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table as `tables/NAME.csv`."""
        self.tracker.table(name, columns, rows)

    def curve(self, metric: str, values: Sequence[float]) -> None:
        """Keep a number per optimizer step."""
        for step, value in enumerate(values, start=1):
            self.tracker.log({"step": step, metric: value})

    def picture(self, name: str, figure: Figure | None) -> None:
        """Keep a figure as `pictures/NAME.png` and `.svg`."""
        if figure is None:
            return
        self.tracker.picture(name, png(figure))
        write_text(self.folder / "pictures" / f"{name}.svg", svg(figure, name) + "\n")
        tell("picture", self.folder / "pictures" / f"{name}.png")


def reserve(config: RunConfig, folder: Path) -> None:
    """Write down what is checked before the work begins; raises ValueError where the folder cannot be written."""
    write_text(folder / "config.json", json.dumps(to_dict(config), indent=2) + "\n")


@contextmanager
def results(config: RunConfig, folder: Path, *, job_type: str) -> Iterator[Results]:
    """A place for the results of one check, in its folder and, filed by the run's name, in Weights & Biases."""
    tracked = override(config, {"track.job_type": job_type, "track.group": config.track.group or config.name})
    with open_tracker(tracked, folder, say=typer.echo) as tracker:
        yield Results(folder, Trackers([FileTracker(folder), tracker]))
