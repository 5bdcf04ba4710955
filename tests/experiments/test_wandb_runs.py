"""W&B's own files, read back: whole, torn, damaged, and in the words of a record."""

import math
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from experiments.runs import local_runs
from experiments.wandb_runs import (
    BLOCK_BYTES,
    filters,
    is_server_path,
    metrics_of,
    offline_runs,
    records,
    without_repeats,
)

ROOT = Path(__file__).parents[2]
HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
WRITE = """
import os, sys
import wandb
settings = wandb.Settings(console="off", silent=True)
run = wandb.init(mode="offline", dir=sys.argv[1], project="p", name="theirs", config={"lr": 0.1}, settings=settings)
run.config.update({"late": {"depth": 2}})
for step in range(2000):
    run.log({"loss": 5.0 / (1 + step), "nested": {"a": step}, "bad": float("nan"), "word": "x" * 50})
run.log({"table": wandb.Table(columns=["a"], data=[[2]])})
if sys.argv[2:]:
    import time; time.sleep(17); os._exit(9)  # past the time after which wandb writes down what it holds
run.finish(exit_code=3)
"""


def piece(content: bytes, kind: int) -> bytes:
    checksum = zlib.crc32(bytes([kind]) + content)
    return struct.pack("<IHB", checksum, len(content), kind) + content


def written(folder: Path, *arguments: str) -> Path:
    around = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-c", WRITE, str(folder), *arguments]
    subprocess.run(command, env=around, check=False, timeout=120, stdin=subprocess.DEVNULL, capture_output=True)
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return file


def test_a_run_of_others_is_read_whole_with_their_clock_for_ours(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert file.stat().st_size > 3 * BLOCK_BYTES  # records are cut where blocks end
    (run,) = local_runs(tmp_path).runs
    assert (run.name, run.state, run.config) == ("theirs", "failed", {"lr": 0.1, "late.depth": 2})
    assert run.metrics == ("bad", "loss", "nested.a")
    assert run.logged.columns["step"].tolist() == list(range(2000))
    assert run.logged.columns["loss"].tolist() == [5.0 / (1 + step) for step in range(2000)]
    assert run.logged.columns["seconds"].max() > 0
    assert math.isnan(run.logged.last["bad"])


@pytest.mark.slow
def test_a_killed_run_of_others_is_read_as_far_as_it_was_written(tmp_path: Path) -> None:
    written(tmp_path, "kill")
    (run,) = local_runs(tmp_path).runs
    assert 0 < run.steps <= 1999
    assert run.logged.columns["loss"].tolist() == [5.0 / (1 + step) for step in range(run.steps + 1)]


def test_records_that_span_pieces_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "run-a.wandb"
    file.write_bytes(
        HEADER + piece(b"first", 1) + piece(b"be", 2) + piece(b"tw", 3) + piece(b"een", 4) + piece(b"end", 1)
    )
    assert list(records(file)) == [b"first", b"between", b"end"]


@pytest.mark.parametrize("lost", [1, 4, 9, 14])
def test_a_torn_end_is_left_out(lost: int, tmp_path: Path) -> None:
    file = tmp_path / "run-a.wandb"
    file.write_bytes((HEADER + piece(b"first", 1) + piece(b"torn off", 1))[:-lost])
    assert list(records(file)) == [b"first"]


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "run-a.wandb"
    whole = bytearray(HEADER + piece(b"first", 1) + piece(b"second", 1))
    whole[len(HEADER) + 8] ^= 1
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="is damaged at byte 7: its checksum does not match"):
        list(records(file))
    file.write_bytes(b"PK\3\4")
    with pytest.raises(ValueError, match=r"run-a\.wandb is no offline run of W&B"):
        offline_runs([file])
    file.write_bytes(HEADER)
    with pytest.raises(ValueError, match="holds no run yet"):
        offline_runs([file])


def test_a_damaged_file_among_others_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"run-{name}.wandb").write_bytes(b"")
    found = local_runs(tmp_path)
    assert found.runs == ()
    assert len(found.left_out) == 2


def test_rows_are_numbers_only_and_what_they_say_themselves_goes_first() -> None:
    rows = [
        {"_step": 7, "_runtime": 2.5, "loss": 3, "ok": True, "word": "x"},
        {"_step": 8, "step": 80, "loss": "NaN", "t._type": "table-file", "t.rows": 2, "u.rows": 3},
    ]
    first, second = metrics_of(rows)
    assert first == {"step": 7.0, "seconds": 2.5, "loss": 3.0, "ok": 1.0}
    assert (second["step"], second["u.rows"], math.isnan(second["loss"])) == (80.0, 3.0, True)
    assert "t.rows" not in second


def at(tokens: int, name: str = "a", value: float = 1.0) -> dict[str, float]:
    return {"step": tokens / 10, "tokens": float(tokens), name: value}


def test_what_a_resumed_run_measured_again_counts_once() -> None:
    plain = [at(10), at(20), at(20, "b"), at(30)]
    assert without_repeats(plain) == plain
    assert without_repeats([*plain, at(20, "a", 2.0), at(30, "a", 2.0)]) == [at(10), at(20, "a", 2.0), at(30, "a", 2.0)]
    assert without_repeats([at(10), at(10, "b"), at(10, "a", 2.0)]) == [at(10, "a", 2.0)]
    theirs = [{"step": 2.0, "a": 1.0}, {"step": 1.0, "a": 1.0}]
    assert without_repeats(theirs) == theirs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("team/project", True),
        ("team/project/abcd1234", True),
        ("team/project?group=warm", True),
        ("project", False),
        ("./runs/a", False),
        ("/runs/a", False),
        ("a/b/c/d", False),
        ("runs//a", False),
    ],
)
def test_a_wandb_path_has_two_or_three_parts(text: str, expected: bool) -> None:
    assert is_server_path(text) == expected


def test_filters_are_typed() -> None:
    assert filters("group=warm&state=finished&config.optim.lr=0.001&config.pairs=null") == {
        "group": "warm",
        "state": "finished",
        "config.optim.lr": 0.001,
        "config.pairs": None,
    }
