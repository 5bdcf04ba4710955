"""The process beside a script that is watched: ``python -m experiments.beside``; messages are lines of JSON, as input.

It writes metrics.jsonl and summary.json, tells Weights & Biases, and writes the report where an examination was made.
It ends with the script, however that ends.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config import RunConfig, override
from experiments.record import write_text

LOW_PRIORITY = 5


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The first message.

    Args:
        name: of the script.
        folder: for everything that is written.
        mode: of Weights & Biases.
    """

    name: str
    folder: str
    mode: str


def command() -> list[str]:
    """Its command line; -P: see `experiments.observed.command`."""
    return [sys.executable, "-P", "-m", "experiments.beside"]


def main() -> None:
    """Follow the messages to their end."""
    os.nice(LOW_PRIORITY)
    messages = arriving()
    first = next(messages, None)
    if first is None:
        return
    with ExitStack() as stack:
        follower = Follower(Beginning(**first), stack)
        follower.follow(messages)
        follower.conclude()


def arriving() -> Iterator[dict[str, Any]]:
    """The messages, read as they come: the script never waits for what is done with them."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while line := lines.get():
        with suppress(json.JSONDecodeError):  # the script was killed in the middle of one
            yield json.loads(line)


@dataclass
class Follower:
    """What is done with each message."""

    beginning: Beginning
    stack: ExitStack
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    tracker: Any = None

    @property
    def folder(self) -> Path:
        """For everything that is written."""
        return Path(self.beginning.folder)

    def follow(self, messages: Iterable[dict[str, Any]]) -> None:
        """Everything until the last message, or until the script is gone."""
        for message in messages:
            if "row" in message:
                self._log(message["row"], message["run"] or {})
            elif "warning" in message:
                self.warnings.append(message["warning"])
            elif "stands" in message:
                self.summary["standstill"] = message["stands"] | {"step": message["step"]}
            elif "diagnosis" in message:
                self._report(Path(message["diagnosis"]), message["step"])
            elif "end" in message:
                self.summary |= {"exit_code": message["end"], "steps": message["steps"]}
                return

    def conclude(self) -> None:
        """The summary as a file, in the tracker and in one line for people."""
        told = {"script": self.beginning.name, "warnings": self.warnings, **self.summary}
        write_text(self.folder / "summary.json", json.dumps(told, indent=1) + "\n")
        if self.tracker is not None and self.warnings:
            self.tracker.table("warnings", ["warning"], [[line] for line in self.warnings])
        number = f"{len(self.warnings) or 'no'} warning{'' if len(self.warnings) == 1 else 's'}"
        steps = self.summary.get("steps", "some")
        say(f"watched {self.beginning.name} for {steps} steps, {number}; see {shown(self.folder)}")

    def _log(self, row: dict[str, int | float], run: dict[str, str]) -> None:
        from experiments.tracking import FileTracker

        FileTracker(self.folder).log(row)
        if self.tracker is None:
            self.tracker = self._opened(run)
        self.tracker.log(row)
        self.summary["steps"] = row["step"]

    def _opened(self, run: dict[str, str]) -> Any:
        """Our run beside the script's own one, in its group and project where it has them."""
        from experiments.tracking import open_tracker

        self.group, self.project = run.get("group") or self.folder.name, run.get("project") or "unplateau"
        return self.stack.enter_context(open_tracker(self._config("watch"), self.folder, say=self._note))

    def _config(self, job_type: str) -> RunConfig:
        given = {"name": f"{job_type} {self.beginning.name}", "track.mode": self.beginning.mode}
        where = {"track.job_type": job_type, "track.group": self.group, "track.project": self.project}
        return override(RunConfig(), given | where)

    def _report(self, file: Path, step: int) -> None:
        """The report of an examination."""
        from experiments.handover import read_diagnosis
        from experiments.results import write_report

        found, folder = read_diagnosis(file), self.folder / f"step-{step}"
        write_report(found, self._config("diagnose"), None, folder, say=self._note)
        first = f"the first cause is {found.causes[0].id}" if found.causes else f"the run is {found.state}"
        self.summary["diagnosis"] = {"step": step, "state": found.state, "causes": [each.id for each in found.causes]}
        stands = self.summary.get("standstill", {})
        stood = f"the loss has stood at {stands['level']:.4f} for {stands['steps']} steps; " if stands else ""
        say(f"step {step}: {stood}{first}; see {shown(folder / 'report.html')}")

    def _note(self, line: str) -> None:
        with (self.folder / "beside.log").open("a") as file:
            file.write(line + "\n")


def shown(path: Path) -> Path:
    """A path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def say(line: str) -> None:
    """A line on the error stream, which the script shares."""
    with suppress(OSError):
        print(f"unplateau: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
