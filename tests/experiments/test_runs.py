"""Runs on disk: found, described, and removed without touching anything else."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.record import RunRecord, process
from experiments.runs import local_runs, ranked_by, remove, size_bytes
from tests.experiments.written_runs import falling, make_old, write_record


def standing(folder: Path) -> str:
    return RunRecord(folder).standing


def test_runs_are_found_at_any_depth_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b", "a/deep/er", "c"):
        write_record(tmp_path / name, falling(3.0))
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "config.json").write_text("{}")  # the results of a check are no run
    found = local_runs(tmp_path).runs
    assert [run.where for run in found] == [str(tmp_path / name) for name in ("a/deep/er", "b", "c")]
    assert [(run.name, run.state, run.steps) for run in found] == [("small", "finished", 20)] * 3


def test_a_run_inside_a_record_is_part_of_the_record(tmp_path: Path) -> None:
    write_record(tmp_path / "a", falling(3.0))
    write_record(tmp_path / "a" / "wandb" / "b", falling(3.0))
    assert len(local_runs(tmp_path).runs) == 1


def test_a_damaged_run_of_a_folder_is_left_out_and_named(tmp_path: Path) -> None:
    write_record(tmp_path / "a", falling(3.0))
    damaged = write_record(tmp_path / "b", falling(3.0)) / "metrics.jsonl"
    damaged.write_text('{"step": 1, "train/loss": 2.5}\n{"step": 2, "tr\n{"step": 3}\n')
    found = local_runs(tmp_path)
    assert [run.id for run in found.runs] == ["a"]
    assert found.left_out == (f"{damaged} is damaged in line 2",)
    with pytest.raises(ValueError, match="is damaged in line 2"):
        local_runs(tmp_path / "b")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"step": 1}\n[1, 2]\n', r"metrics\.jsonl is damaged in line 2"),
        ("metrics.jsonl", '{"step": 1}\n\n{"step": 2}\n', r"metrics\.jsonl is damaged in line 2"),
        ("metrics.jsonl", '{"step": 1}, {"step": 2}\n', r"metrics\.jsonl is damaged in line 1"),
        ("metrics.jsonl", '{"step": 1, "a": "b"}\n', r"metrics\.jsonl holds what is no number: "),
        ("state.json", "{}", r"state\.json is damaged: its state \(None\) is none of running, finished"),
        ("state.json", '{"state": "gone"}', r"state\.json is damaged: its state \('gone'\) is none of"),
        ("config.json", "[]", r"config\.json is damaged: it holds no table"),
    ],
)
def test_damage_names_its_file(name: str, content: str, message: str, tmp_path: Path) -> None:
    record = write_record(tmp_path / "a", falling(3.0))
    (record / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        local_runs(record)
    write_record(tmp_path / "b", falling(3.0))
    assert len(local_runs(tmp_path).left_out) == 1


def test_a_place_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run: nothing below it has"):
        local_runs(tmp_path)
    with pytest.raises(ValueError, match="none does not exist"):
        local_runs(tmp_path / "none")


def test_a_run_is_on_as_long_as_its_process_is(tmp_path: Path) -> None:
    record = write_record(tmp_path / "a", [])
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        about = json.dumps({"state": "running", **process(sleeper.pid)})
        (record / "state.json").write_text(about)
        assert standing(record) == "running"
    finally:
        sleeper.kill()
        sleeper.wait()
    assert standing(record) == "killed"


def test_a_process_with_the_same_id_is_not_the_same_process(tmp_path: Path) -> None:
    record = write_record(tmp_path / "a", [])
    about = {"state": "running", **process(os.getpid())}
    (record / "state.json").write_text(json.dumps(about | {"began_ticks": about["began_ticks"] - 1}))
    assert standing(record) == "killed"


@pytest.mark.parametrize("about", [{}, {"host": platform.node() + "-other", "pid": 7, "began_ticks": 7}])
def test_a_run_that_cannot_be_looked_at_is_on_while_it_writes(about: dict[str, object], tmp_path: Path) -> None:
    record = write_record(tmp_path / "a", falling(3.0))
    (record / "state.json").write_text(json.dumps({"state": "running", **about}))
    assert standing(record) == "running"
    make_old(record, days=1)
    assert standing(record) == "killed"


def test_removing_takes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    plain, noted = (write_record(tmp_path / name, falling(3.0)) for name in ("plain", "noted"))
    (plain / "tables").mkdir()
    (plain / "tables" / "sample.csv").write_text("text\n")
    (noted / "notes.txt").write_text("keep me")
    assert size_bytes(plain) == sum(file.stat().st_size for file in plain.rglob("*") if file.is_file())
    assert remove(plain)
    assert not plain.exists()
    assert not remove(noted)
    assert [file.name for file in noted.iterdir()] == ["notes.txt"]


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.txt").write_text("keep me")
    record = write_record(tmp_path / "a", [])
    (record / "wandb").symlink_to(elsewhere)
    assert remove(record)
    assert (elsewhere / "precious.txt").exists()


def test_a_run_that_is_on_is_not_removed(tmp_path: Path) -> None:
    record = write_record(tmp_path / "a", falling(3.0), state="running")
    with pytest.raises(ValueError, match="is on; nothing is removed"):
        remove(record)
    with pytest.raises(ValueError, match="is no record of a run; nothing is removed"):
        remove(tmp_path)


def test_runs_are_judged_by_what_most_of_them_measured() -> None:
    assert ranked_by({"val/loss": 3, "val/bits_per_byte": 3, "train/loss": 3}) == "val/bits_per_byte"
    assert ranked_by({"train/loss": 5, "val/loss": 3}) == "train/loss"
    with pytest.raises(ValueError, match="name a metric, of: accuracy, reward"):
        ranked_by({"reward": 2, "accuracy": 3})
