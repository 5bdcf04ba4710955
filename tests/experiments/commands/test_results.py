"""What a check leaves behind goes to its folder and to Weights & Biases, and a bar never hides a line."""

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import results as module
from experiments.commands.console import progress_bar
from experiments.config import RunConfig


class Remembering:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, list[Any]] = {"log": [], "picture": [], "table": []}

    def log(self, metrics: Mapping[str, int | float]) -> None:
        self.told["log"].append(dict(metrics))

    def picture(self, name: str, png: bytes) -> None:
        self.told["picture"].append((name, png[:4]))

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self.told["table"].append((name, list(columns), len(rows)))

    def file(self, path: Path, *, kind: str) -> None: ...

    def finish(self, *, failed: bool = False) -> None: ...


@pytest.fixture
def tracked(monkeypatch: pytest.MonkeyPatch) -> tuple[Remembering, list[RunConfig]]:
    """In place of Weights & Biases."""
    tracker, configs = Remembering(), []

    @contextmanager
    def opened(config: RunConfig, folder: Path, **_: object) -> Iterator[Remembering]:
        configs.append(config)
        yield tracker

    monkeypatch.setattr(module, "open_tracker", opened)
    return tracker, configs


def test_picture_table_and_curve_reach_files_and_the_tracker(run, small, tracked, tmp_path) -> None:
    tracker, configs = tracked
    assert run("gradients", *small, "--steps", 2, "--out", tmp_path / "out").code == 0
    kept = json.loads((tmp_path / "out" / "gradients.json").read_text())
    logged = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [name for name, _ in tracker.told["picture"]] == ["gradient-norms", "update-ratios"]
    assert all(start == b"\x89PNG" for _, start in tracker.told["picture"])
    assert [(name, count) for name, _, count in tracker.told["table"]] == [("gradients", len(kept["modules"]))]
    assert tracker.told["log"] == logged
    assert [row["step"] for row in logged] == [1, 2]
    assert (configs[0].track.job_type, configs[0].track.group) == ("gradients", "small")


def test_lines_go_to_the_output_and_the_bar_to_the_errors(monkeypatch) -> None:
    output, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the error stream for a terminal
    with progress_bar("working") as advance:
        advance(3, 7)
        print("a line")
    assert output.getvalue() == "a line\n"
    assert "working" in errors.getvalue()
    assert "3/7" in errors.getvalue()


def test_a_pipe_gets_no_bar(capsys) -> None:
    with progress_bar("working") as advance:
        advance(3, 7)
    assert capsys.readouterr() == ("", "")
