import importlib.metadata
import json
from pathlib import Path

import pytest

from experiments.config import RunConfig
from experiments.recipes import small
from experiments.record import RunRecord, write_text


def test_a_new_record_holds_configuration_environment_and_state(tmp_path: Path) -> None:
    record = RunRecord.create(tmp_path / "run", small())
    assert record.config == small()
    assert record.state == "running"
    assert record.environment["seed"] == 0
    assert record.environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(record.environment) == {
        "seed", "python", "platform", "processor_cores", "versions", "git_commit", "command"
    }  # fmt: skip
    assert RunRecord.open(tmp_path / "run") == record


def test_a_folder_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    RunRecord.create(tmp_path, RunConfig())
    with pytest.raises(ValueError, match="already holds a run; resume it or choose another folder"):
        RunRecord.create(tmp_path, RunConfig())


def test_a_folder_without_a_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run: it has no config\.json"):
        RunRecord.open(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"config\.json cannot be written: "):
        RunRecord.create(tmp_path / "file" / "run", RunConfig())


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    record = RunRecord.create(tmp_path, RunConfig())
    record.metrics_path.write_text('{"step": 1, "val/loss": 2.5}\n{"step": 2, "val/l')
    assert record.rows() == [{"step": 1, "val/loss": 2.5}]


def test_metrics_are_a_table_with_a_column_per_metric(tmp_path: Path) -> None:
    record = RunRecord.create(tmp_path, RunConfig())
    assert record.rows() == []
    assert record.metrics.empty
    write_text(record.metrics_path, '{"step": 1, "a": 2.5}\n{"step": 1, "b": 3.5}\n')
    assert list(record.metrics.columns) == ["step", "a", "b"]
    assert record.metrics["a"].isna().tolist() == [False, True]


def test_rows_after_a_step_can_be_forgotten(tmp_path: Path) -> None:
    record = RunRecord.create(tmp_path, RunConfig())
    write_text(record.metrics_path, "".join(json.dumps({"step": i}) + "\n" for i in range(5)) + '{"st')
    record.forget_after(2)
    assert record.rows() == [{"step": 0}, {"step": 1}, {"step": 2}]


@pytest.mark.parametrize(("content", "message"), [("{", "state.json cannot be read"), ("3", "state.json is damaged")])
def test_a_damaged_record_says_which_file(tmp_path: Path, content: str, message: str) -> None:
    record = RunRecord.create(tmp_path, RunConfig())
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        _ = record.state
