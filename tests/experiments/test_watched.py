"""Both sides of a watched script without one: messages by hand, and an examination that takes too long."""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from diagnostics.capture.recording import Recording
from experiments.beside import Beginning, Follower
from experiments.tracking import run_of_the_script
from experiments.watched import Beside, Examinations


def follower(folder: Path) -> Follower:
    return Follower(Beginning(name="train.py", folder=str(folder), mode="disabled"), ExitStack())


def test_rows_and_warnings_become_files(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"step": 1, "train/loss": 3.5}, {"step": 10, "train/loss": 2.5}]
    one = follower(tmp_path)
    one.follow([*({"row": row, "run": None} for row in rows), {"warning": "step 7: no"}, {"end": 3, "steps": 11}])
    one.conclude()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "script": "train.py",
        "warnings": ["step 7: no"],
        "steps": 11,
        "exit_code": 3,
    }
    assert capfd.readouterr().err == f"unplateau: watched train.py for 11 steps, 1 warning; see {tmp_path}\n"


def test_a_script_that_is_gone_without_a_word_has_a_summary(tmp_path: Path) -> None:
    one = follower(tmp_path)
    one.follow([{"row": {"step": 20}, "run": {}}])
    one.conclude()
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 20


def test_an_examination_that_takes_too_long_is_ended_and_told(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    examinations = Examinations(Recording(name="loop"), tmp_path, Beside(write), {}, [child])
    examinations.finish(patience=0.2)
    assert json.loads(os.read(read, 1000)) == {"warning": "an examination was ended after 0.2 seconds"}
    assert examinations.running == []
    os.waitpid(child, 0)


def test_messages_to_a_process_that_is_gone_are_dropped() -> None:
    read, write = os.pipe()
    os.close(read)
    Beside(write).log({"step": 1})


def test_the_scripts_own_run_is_known_by_group_and_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace(group="ours", project="own")))
    assert run_of_the_script() == {"group": "ours", "project": "own"}
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    assert run_of_the_script() == {}
