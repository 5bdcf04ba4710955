"""`unplateau runs`: the list, and what is removed only when it is meant."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.experiments.written_runs import falling, make_old, write_record

COMMAND = [sys.executable, "-c", "from experiments.commands import main; main()"]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_record(tmp_path / "runs" / "good", falling(3.0), train__steps=20)
    write_record(tmp_path / "runs" / "better", falling(2.0), state="interrupted", train__steps=50)
    write_record(tmp_path / "runs" / "empty", [], state="failed")
    make_old(tmp_path / "runs" / "good", days=3)
    return tmp_path / "runs"


def listed(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if line.startswith((" good", " better", " empty"))]


def test_runs_are_listed_with_state_age_steps_and_best_value(run, folder) -> None:
    ended = run("runs", folder, "--sort", "best")
    assert ended.code == 0
    assert listed(ended.out) == [
        ["better", "interrupted", "0", "s", "20", "of", "50", "1"],
        ["good", "finished", "3", "d", "20", "1.5"],
        ["empty", "failed", "0", "s", "0", "of", "600", "-"],
    ]
    assert "runs        3: 1 finished, 1 interrupted, 1 failed" in ended.out
    assert max(len(line) for line in ended.out.splitlines() if not line.startswith("next")) <= 80


def test_the_list_is_chosen_sorted_and_cut(run, folder) -> None:
    assert [row[0] for row in listed(run("runs", folder, "--sort", "name").out)] == ["better", "empty", "good"]
    assert [row[0] for row in listed(run("runs", folder, "--state", "failed", "--state", "finished").out)] == [
        "empty",
        "good",
    ]
    assert [row[0] for row in listed(run("runs", folder, "--older", 2).out)] == ["good"]
    ended = run("runs", folder, "--limit", 1)
    assert len(listed(ended.out)) == 1
    assert "more        2 of 3 runs; --limit 0 lists all" in ended.out


def test_another_metric_can_be_the_best_value(run, folder) -> None:
    ended = run("runs", folder, "--metric", "val/loss")
    assert ["good", "finished", "3", "d", "20", "3"] in listed(ended.out)
    ended = run("runs", folder, "--metric", "val/los")
    assert (ended.code, ended.err) == (2, "unplateau: no run here measured 'val/los'; did you mean 'val/loss'?\n")


def test_pruning_says_what_would_go_and_removes_nothing(run, folder) -> None:
    ended = run("runs", folder, "--prune", "--state", "failed", "--older", 0)
    assert ended.code == 0
    assert f"to go       {folder / 'empty'}" in ended.out
    assert "in 1 runs" in ended.out
    assert (folder / "empty").exists()


def test_pruning_with_yes_removes_the_chosen_runs_only(run, folder) -> None:
    ended = run("runs", folder, "--prune", "--state", "failed", "--state", "finished", "--yes")
    assert ended.code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["better"]
    assert f"removed     {folder / 'empty'}" in ended.out


def test_a_run_that_is_on_is_kept(run, folder) -> None:
    write_record(folder / "on", falling(3.0), state="running")
    ended = run("runs", folder, "--prune", "--older", 0, "--yes")
    assert [path.name for path in folder.iterdir()] == ["on"]
    assert "kept        1 that are on, or no records of ours" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune"], "--prune needs --state or --older to say which runs, such as --state killed --older 7"),
        (["--yes"], "--yes goes with --prune; nothing is removed without it"),
    ],
)
def test_an_unclear_removal_is_refused(arguments, message, run, folder) -> None:
    ended = run("runs", folder, *arguments)
    assert (ended.code, ended.err) == (2, f"unplateau: {message}\n")
    assert len(list(folder.iterdir())) == 3


def test_the_list_is_exported_with_all_settings(run, folder, tmp_path) -> None:
    ended = run("runs", folder, "--table", tmp_path / "list.csv", "--state", "finished")
    assert ended.code == 0
    (row,) = pd.read_csv(tmp_path / "list.csv").to_dict("records")
    assert (row["state"], row["train.steps"], row["best val/bits_per_byte"]) == ("finished", 20, 1.5)


def test_a_folder_without_runs_is_one_line(run, tmp_path) -> None:
    ended = run("runs", tmp_path)
    assert ended.code == 2
    assert ended.err.startswith(f"unplateau: {tmp_path} holds no run: ")
    assert ended.err.count("\n") == 1


def test_a_killed_run_is_listed_as_killed_and_compares_up_to_its_last_step(run, small, tmp_path) -> None:
    """A real process, killed by SIGKILL in the middle; seen from outside before and after."""
    folder = tmp_path / "runs" / "killed"
    long = [*COMMAND, "train", *small, "--set=train.steps=1000000", "--set=train.log_every=1", "--out", str(folder)]
    write_record(tmp_path / "runs" / "whole", falling(3.0))
    with subprocess.Popen(long, stdout=subprocess.DEVNULL, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}) as on:
        end = time.monotonic() + 100
        while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").stat().st_size < 3000:
            assert on.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        assert "running" in run("runs", tmp_path / "runs").out
        on.send_signal(signal.SIGKILL)
    last = (folder / "metrics.jsonl").read_text().count("\n")
    ended = run("runs", tmp_path / "runs", "--state", "killed", "--metric", "train/loss")
    assert f"{last:,} of 1,000,000" in ended.out
    compared = run("compare", tmp_path / "runs", "--metric", "train/loss")
    assert compared.code == 0
    assert "(1 killed of 2)" in compared.out
    assert f"the runs end at steps {min(last, 20):,} to {max(last, 20):,}" in " ".join(compared.out.split())
