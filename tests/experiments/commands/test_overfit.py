"""`unplateau overfit`: the check of one batch, its verdict and what it leaves."""

import json
import math
from dataclasses import replace

import pytest

from experiments.commands.overfit import long_enough, next_step, sentence
from experiments.config import override
from experiments.overfit import Overfit, overfit, verdict
from experiments.subject import subject_of

LEARNED = Overfit(
    seed=0, curve=(2.0, 0.01), evaluated=0.03, lowest_possible=0.0, generating=0.03, generating_lowest=0.0
)


def test_the_command_shows_every_seed_and_keeps_curve_and_picture(run, small, tmp_path) -> None:
    ended = run("overfit", *small, "--steps", 5, "--seeds", 2, "--workers", 1, "--out", tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "overfit.json").read_text())
    lines = ended.out.splitlines()
    assert ended.code == 0
    assert [len(each["curve"]) for each in kept] == [5, 5]
    for line, each in zip(lines[1:3], kept, strict=True):
        shown = [each["curve"][0], each["curve"][-1], each["evaluated"], each["generating"], each["lowest_possible"]]
        figures = line.split()
        assert figures[0] == str(each["seed"])
        assert [*figures[1:3], *figures[4:]] == [f"{value:.3f}" for value in shown]
    assert (tmp_path / "out" / "pictures" / "overfit.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "pictures" / "overfit.svg").read_text().startswith("<svg")
    assert lines[-2].startswith("verdict     one batch is NOT learned in 5 steps")
    assert lines[-1].startswith("next        unplateau ")


@pytest.mark.parametrize(
    ("verdict", "words", "command"),
    [
        ("learned", "is learned by heart", "gradients --recipe small"),
        ("learned, but not as generation uses it", "NOT known when", "diagnose --recipe small"),
        ("not learned yet", "is still falling", "overfit --recipe small --steps 14"),
        ("not learned", "something keeps the loss up", "diagnose --recipe small"),
    ],
)
def test_each_verdict_has_its_words_and_its_next_step(verdict, words, command) -> None:
    assert words in sentence(verdict, 7)
    assert next_step(verdict, "small", 7) == f"unplateau {command}"


def test_the_schedule_lasts_as_long_as_the_check(tiny) -> None:
    assert long_enough(tiny, 21).train.steps == 21
    assert long_enough(tiny, 19) == tiny


def test_a_sound_setup_learns_its_batch_by_heart(tiny) -> None:
    sound = override(tiny, {"optim.lr": 1e-2, "model.dropout": 0.0, "data.context": 3})
    found = overfit(subject_of(sound), seed=3, steps=300)
    assert found.is_learned
    assert found.is_known_when_writing
    assert found.lowest_possible <= found.evaluated


def test_the_stuck_run_does_not_learn_its_batch(tiny_stuck) -> None:
    found = overfit(subject_of(tiny_stuck), seed=3, steps=40)
    assert verdict([found]) == "not learned"


def test_the_same_seed_gives_the_same_numbers(tiny) -> None:
    subject = subject_of(tiny)
    assert overfit(subject, seed=5, steps=3) == overfit(subject, seed=5, steps=3)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, "learned"),
        ({"evaluated": 0.06, "curve": (2.0, 1.0, 0.95)}, "not learned"),
        ({"evaluated": 0.06, "curve": (2.0, 1.0, 0.85)}, "not learned yet"),
        ({"evaluated": 0.06, "lowest_possible": 0.02}, "learned"),
        ({"generating": 0.06}, "learned, but not as generation uses it"),
        ({"generating": 0.06, "generating_lowest": 0.02}, "learned"),
        ({"generating": None}, "learned"),
        ({"evaluated": math.nan, "curve": (math.nan,)}, "not learned"),
    ],
)
def test_one_seed_that_fails_decides(change, found) -> None:
    assert verdict([LEARNED, replace(LEARNED, seed=1, **change)]) == found
