"""`unplateau search`: its answer, its refusal of a broken setup, and going on by the same command."""

import json

import pytest

QUICK = ("--search", "optim.lr=1e-3..1e-1:log", "--trials", 3, "--finalists", 1, "--seeds", 2)


@pytest.mark.slow
def test_the_command_ends_in_a_verdict_and_goes_on_where_it_stopped(run, small, tmp_path) -> None:
    out = tmp_path / "study"
    ended = run("search", *small, *QUICK, "--out", out)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.startswith("trial ")] == ["trial 0", "trial 1", "trial 2"]
    assert [line for line in lines if line.startswith("verdict     3 trials moved the loss from")]
    assert lines[-1].startswith("next        unplateau ")
    kept = json.loads((out / "search.json").read_text())
    assert [each["number"] for each in kept["trials"]] == [0, 1, 2]
    more = run("search", *small, *QUICK, "--trials", 4, "--out", out)
    again = json.loads((out / "search.json").read_text())
    assert more.code == 0, more.err
    assert again["trials"][:3] == kept["trials"]
    assert len(again["trials"]) == 4


def test_a_broken_setup_is_refused_before_its_first_trial(run, stuck, tmp_path) -> None:
    out = tmp_path / "study"
    ended = run("search", *stuck, *QUICK, "--out", out)
    assert ended.code == 2
    assert "has a softmax-before-cross-entropy, which no value of the searched settings can mend" in ended.err
    assert "--anyway" in ended.err
    assert not (out / "trials").exists()


@pytest.mark.slow
def test_searched_all_the_same_the_verdict_names_what_stands_in_the_way(run, stuck, tmp_path) -> None:
    ended = run("search", *stuck, *QUICK, "--anyway", "--out", tmp_path / "study")
    assert ended.code == 0, ended.err
    assert "no value of these 1 settings can help: the code has a softmax-before-cross-entropy" in ended.out
    assert "next        unplateau diagnose --recipe stuck" in ended.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--search", "optim.lrr=1..2"], "did you mean 'lr'"),
        (["--compare", "optim.lr=1e-3..1e-2"], "takes values to compare"),
        (["--pruner", "median"], "pruner ('median') must be one of halving, hyperband, none"),
        (["--storage", "sqlite:///x", "--workers", 2], "takes one process"),
        (["--set", "train.steps=none", "--set", "train.epochs=1"], "say how long trials are with --tokens"),
    ],
)
def test_what_can_be_mended_is_one_line(run, small, tmp_path, options, message) -> None:
    ended = run("search", *small, *options, "--out", tmp_path / "study")
    assert ended.code == 2
    assert message in ended.err
