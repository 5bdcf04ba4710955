"""Where a diagnosis goes: files, tables of everything that was measured, and the trials as runs of one group."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diagnostics.diagnosis import Run
from experiments import results
from experiments.config import RunConfig
from experiments.recipes import small
from experiments.results import (
    TABLES,
    TRIAL_RUNS,
    curve_rows,
    leaves,
    measurement_rows,
    tables,
    trial_runs,
    write_report,
)
from experiments.tracking import ShortRun
from tests import diagnoses

ROOT = Path(__file__).parents[2]


class Remembering:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.pictures: list[str] = []
        self.tables: dict[str, int] = {}
        self.files: list[str] = []

    def log(self, metrics: Mapping[str, int | float]) -> None:
        self.losses.append(metrics["train/loss"])

    def picture(self, name: str, png: bytes) -> None:
        self.pictures.append(name)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        assert {len(row) for row in rows} == {len(columns)}
        self.tables[name] = len(rows)

    def file(self, path: Path, *, kind: str) -> None:
        assert path.stat().st_size > 0
        self.files.append(f"{kind} {path.name}")

    def finish(self, *, failed: bool = False) -> None: ...


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> tuple[Remembering, list[RunConfig], list[ShortRun]]:
    """What reaches Weights & Biases: the tracker, the configurations of run and group, the runs of the group."""
    tracker, configs, runs = Remembering(), [], []

    @contextmanager
    def opened(config: RunConfig, folder: Path, **_: object) -> Iterator[Remembering]:
        configs.append(config)
        yield tracker

    def grouped(config: RunConfig, folder: Path, group: Sequence[ShortRun], **_: object) -> int:
        configs.append(config)
        runs.extend(group)
        return len(runs)

    monkeypatch.setattr(results, "open_tracker", opened)
    monkeypatch.setattr(results, "track_group", grouped)
    return tracker, configs, runs


def test_files_come_first_and_everything_reaches_the_tracker(told, tmp_path: Path) -> None:
    tracker, configs, runs = told
    said: list[str] = []
    write_report(diagnoses.stuck(), small(), None, tmp_path / "out", say=said.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"diagnosis.json", "report.md", "report.html"}
    assert json.loads((tmp_path / "out" / "diagnosis.json").read_text())["state"] == "faulty"
    assert tracker.losses == list(diagnoses.stuck().history)
    assert {"standing-loss", "repair-path", "one-batch"} <= set(tracker.pictures)
    assert set(tracker.tables) == set(TABLES)
    assert tracker.files == ["report report.html", "diagnosis diagnosis.json"]
    assert [config.track.job_type for config in configs] == ["diagnose", "trial"]
    assert [config.track.group for config in configs] == ["out", "out"]
    assert said == [f"W&B: {len(runs)} sides of trials beside it, as runs of the group out"]


def test_no_more_runs_are_started_than_a_reader_waits_for_and_the_rest_is_counted(told, tmp_path, monkeypatch) -> None:
    _, _, runs = told
    monkeypatch.setattr(results, "TRIAL_RUNS", 3)
    said: list[str] = []
    write_report(diagnoses.stuck(), small(), None, tmp_path / "out", say=said.append)
    assert len(runs) == 3 < TRIAL_RUNS
    assert said[0].endswith(f"; {len(trial_runs(diagnoses.stuck())) - 3} more stand in diagnosis.json only")


def test_a_diagnosis_without_trials_starts_no_runs(told, tmp_path: Path) -> None:
    _, _, runs = told
    said: list[str] = []
    write_report(diagnoses.bare(), small(), None, tmp_path / "out", say=said.append)
    assert (runs, said) == ([], [])


def test_every_fact_of_a_measurement_is_a_row_with_its_probe_and_seed() -> None:
    rows = list(measurement_rows(diagnoses.LOSS_INPUTS))
    assert ["loss-inputs", "function", None, "cross_entropy", 0, ""] in rows
    assert ["loss-inputs", "rows", 7.0, None, 0, ""] in rows
    assert ["loss-inputs", "missing", None, None, 0, ""] in rows
    assert ["loss-inputs", "depth[1][0]", None, "layer <1>", 0, ""] in rows
    assert len(rows) == 4 + 7 + 2 + 6
    behind = replace(diagnoses.LOSS_INPUTS, repaired=(diagnoses.SOFTMAX, diagnoses.LEAK))
    assert {row[-1] for row in measurement_rows(behind)} == {f"{diagnoses.SOFTMAX}, {diagnoses.LEAK}"}


def test_a_reading_without_a_measurement_says_why() -> None:
    (row,) = measurement_rows(diagnoses.MISSING)
    assert row == ["graph-retention", "nothing was measured", None, "this subject has no history", 0, ""]


def test_leaves_are_named_by_where_they_stand() -> None:
    plain = {"modules": [{"norm": 0.5, "names": ["a", None]}], "rows": 7}
    assert list(leaves(plain)) == [
        ("modules[0].norm", 0.5), ("modules[0].names[0]", "a"), ("modules[0].names[1]", None), ("rows", 7)
    ]  # fmt: skip


def test_a_trial_is_a_row_for_each_seed_with_its_placebo_where_there_was_one() -> None:
    rows = tables(diagnoses.stuck())["trials"]
    assert rows[0][4:] == [0, 8.99, 0.02, 8.99]
    assert rows[3][4:] == [0, 8.99, 8.0, None]
    assert {len(row) for row in rows} == {len(TABLES["trials"])}


def test_both_sides_of_a_deciding_trial_are_runs_and_a_shared_side_comes_once() -> None:
    runs = {run.name: run for run in trial_runs(diagnoses.stuck())}
    assert list(runs)[:3] == [
        "nothing repaired (one batch)", f"{diagnoses.SOFTMAX} (one batch)", f"{diagnoses.PIN} (one batch)"
    ]  # fmt: skip
    without = runs[f"{diagnoses.SOFTMAX} (one batch)"]
    assert (without.config["fault"], without.config["side"], without.config["regime"]) == (
        diagnoses.SOFTMAX, "after", "one batch"
    )  # fmt: skip
    assert (without.config["repaired"], without.config["seed"]) == ([diagnoses.SOFTMAX], [0, 1, 2])
    assert without.config["confirms"] is True
    assert without.rows[0] == {
        "step": 1, "train/loss": 8.5, "train/loss/seed_0": 8.375, "train/loss/seed_1": 8.5, "train/loss/seed_2": 8.625
    }  # fmt: skip


def test_a_seed_that_has_learned_early_is_left_out_of_the_later_steps() -> None:
    outcomes = diagnoses.stuck().outcomes(frozenset(), "one batch")
    assert [len(row) - 2 for row in curve_rows(outcomes)] == [3, 3, 3, 3, 3, 2, 1]
    assert list(curve_rows([])) == []


def test_a_run_that_diverges_is_drawn_written_and_told(told, tmp_path: Path) -> None:
    def diverged(run: Run) -> Run:
        return replace(run, outcome=replace(run.outcome, final=math.nan, curve=(9.0, math.nan, math.inf)))

    stuck = diagnoses.stuck()
    runs = tuple(run if run.repaired else diverged(run) for run in stuck.runs)
    trial = replace(stuck.causes[0].trials[0], before=(math.nan, math.nan, math.inf))
    causes = (replace(stuck.causes[0], trials=(trial,)), *stuck.causes[1:])
    found = replace(stuck, runs=runs, causes=causes, standing=math.nan, history=(9.0, math.nan))
    write_report(found, small(), None, tmp_path / "out", say=print)
    assert "every run diverges without the repair" in (tmp_path / "out" / "report.md").read_text()


WRITE = """
import sys
from pathlib import Path
from experiments.config import override
from experiments.recipes import small
from experiments.results import write_report
from tests import diagnoses
write_report(diagnoses.stuck(), override(small(), {"track.mode": "auto"}), None, Path(sys.argv[1]), say=print)
"""


def test_it_works_for_real_offline_without_a_login_and_without_a_question(tmp_path: Path) -> None:
    around = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    around |= {"NETRC": str(tmp_path / "no-netrc"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WRITE, str(tmp_path / "out")],
        env=around, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    main, trials = done.stdout.splitlines()
    assert main.startswith("W&B: offline, upload with `wandb sync ")
    runs = [path.read_bytes() for path in (tmp_path / "out" / "wandb").glob("offline-run-*/run-*.wandb")]
    assert trials.startswith(f"W&B: {len(runs) - 1} sides of trials beside it")
    (diagnosis,) = (each for each in runs if b"measurements" in each)
    assert all(word in diagnosis for word in (b"repair-path", b"verdicts", b"report", b"diagnosis"))
    assert all(b"train/loss/seed_0" in each and b"repaired" in each for each in runs if each is not diagnosis)
