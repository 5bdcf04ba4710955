"""`unplateau compare`: what it says, what it writes, and how it ends."""

from pathlib import Path

import pandas as pd
import pytest

from tests.experiments.written_runs import falling, write_record


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for lr, end in ((0.1, 3.0), (0.2, 3.4)):
        for seed in (2, 3, 5):
            loss = end + seed / 100 + 0.01 * (seed == 3) * (lr == 0.2)
            write_record(tmp_path / "runs" / f"{lr}-{seed}", falling(loss), optim__lr=lr, seed=seed)
    return tmp_path / "runs"


def test_it_shows_what_differs_the_groups_and_a_sentence(run, runs) -> None:
    ended = run("compare", runs)
    assert ended.code == 0
    words = " ".join(ended.out.split())
    assert ended.out.index(" lr ") < ended.out.index(" seed ") < ended.out.index(" state ")
    assert "0.1 2 finished 20 1.51 1.51" in words
    assert "groups over seed: best val/bits_per_byte, bits/byte" in words
    assert "lr=0.1 is better than lr=0.2 by 0.2017 +- 0.0072 bits/byte, 3 seeds, paired" in words
    assert "they differ in optim.lr (0.2 against 0.1)" in words
    assert max(map(len, ended.out.splitlines())) <= 80


def test_two_runs_that_differ_in_much_stand_side_by_side(run, tmp_path) -> None:
    write_record(tmp_path / "a", falling(3.0))
    changes = {f"model__{name}": value for name, value in (("d_model", 64), ("num_heads", 2), ("num_layers", 3))}
    write_record(tmp_path / "b", falling(2.0), **changes, model__d_ff=7, optim__lr=0.1, optim__eps=0.1, seed=7)
    ended = run("compare", tmp_path / "a", tmp_path / "b")
    assert "optim.eps" in ended.out
    assert "small #1" in ended.out
    assert "one seed says nothing about chance" in " ".join(ended.out.split())


def test_a_check_that_fails_ends_with_1(run, runs) -> None:
    ended = run("compare", runs, "--fail-if", "val/bits_per_byte > 1.02 * baseline")
    assert ended.code == 1
    assert "failed      lr=0.2: val/bits_per_byte 1.718; lr=0.1: val/bits_per_byte 1.517" in ended.out
    assert ended.out.splitlines()[-1] == "check       val/bits_per_byte > 1.02 * baseline: holds for 1"


def test_a_check_that_passes_ends_with_0(run, runs) -> None:
    ended = run("compare", runs, "--fail-if", "val/bits_per_byte > 1.02 * baseline", "--baseline", runs / "0.2-2")
    assert ended.code == 0
    assert ended.out.splitlines()[-1].endswith(": does not hold, all is well")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "val/los"], "no run measured 'val/los'; did you mean 'val/loss'?"),
        (["--fail-if", "val/loss >"], "the condition 'val/loss >' is none: invalid syntax"),
        (["--baseline", "lr=0.4"], "no run or group 'lr=0.4' to compare with; did you mean 'lr=0.2'?"),
        (["--table", "runs.xlsx"], "runs.xlsx must end in .csv or .parquet"),
        (["nowhere"], "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_ends_with_2(arguments, message, run, runs) -> None:
    ended = run("compare", runs, *arguments)
    assert (ended.code, ended.err) == (2, f"unplateau: {message}\n")


def test_the_table_holds_every_setting_and_result(run, runs, tmp_path) -> None:
    assert run("compare", runs, "--table", tmp_path / "all.csv").code == 0
    table = pd.read_csv(tmp_path / "all.csv")
    assert table["optim.lr"].tolist() == [0.1] * 3 + [0.2] * 3
    assert table["last val/loss"].tolist() == pytest.approx([3.02, 3.03, 3.05, 3.42, 3.44, 3.45])


def test_many_runs_are_shown_best_first_and_counted(run, tmp_path) -> None:
    for number in range(23):
        write_record(tmp_path / f"{number:02}", falling(3.0 + (number * 7 % 23) / 100), optim__lr=0.1 + number)
    ended = run("compare", tmp_path)
    rows = [line.split() for line in ended.out.splitlines() if "finished" in line]
    assert len(rows) == 20
    assert [row[3] for row in rows] == sorted(row[3] for row in rows)
    assert "more        3 runs; --table FILE keeps all" in ended.out
    assert "2 more groups are not told" in ended.out
