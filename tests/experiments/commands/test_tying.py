"""`unplateau tying`: a trial over paired seeds that says when there is nothing to see."""

import json
import math
from dataclasses import replace

import pytest

from diagnostics.trial import Outcome, Trial
from experiments.commands.tying import next_step
from experiments.tying import Tying, trial_of, tying, with_tying


def found(before: tuple[float, ...], after: tuple[float, ...]) -> Tying:
    """A comparison with these losses."""
    trial = Trial(
        question="", quantity="", seeds=tuple(range(len(before))), before=before, after=after, reference=math.nan
    )
    return Tying(trial=trial, untied_curves=(), tied_curves=(), untied_parameters=5, tied_parameters=3, steps=1)


@pytest.mark.parametrize(
    ("better", "by_defect", "setting"),
    [
        ("tied", False, "model.tie_weights=true"),
        ("untied", False, "model.tie_weights=false"),
        ("tied", True, "defects.untied_head=false"),
        ("untied", True, "defects.untied_head=true"),
    ],
)
def test_the_next_step_keeps_the_better_side(better, by_defect, setting) -> None:
    high, low = (3.00, 3.01), (2.80, 2.82)
    sides = (high, low) if better == "tied" else (low, high)
    measured = replace(found(*sides), switched_by_defect=by_defect)
    assert next_step(measured, "small") == f"unplateau train --recipe small --set {setting}"


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((3.00, 3.01, 3.02), (2.80, 2.82, 2.81), "tied is better"),
        ((2.80, 2.82, 2.81), (3.00, 3.01, 3.02), "untied is better"),
        ((3.00, 3.01, 3.02), (3.00, 3.01, 3.02), "no difference beyond the noise"),
        ((3.0, 3.4, 3.8), (2.9, 3.3, 3.7), "no difference beyond the noise"),  # a seed does more than tying
        ((3.0, 3.1, 3.2), (3.2, 2.7, 2.8), "no difference beyond the noise"),  # pairs disagree
    ],
)
def test_a_difference_counts_where_it_beats_error_and_spread(before, after, verdict) -> None:
    assert found(before, after).verdict == verdict


def test_tying_saves_one_matrix_of_the_vocabulary(tiny) -> None:
    measured = tying(tiny, seeds=2, steps=2, workers=1)
    assert measured.untied_parameters - measured.tied_parameters == tiny.tokenizer.vocab_size * tiny.model.d_model
    assert "bits per byte" in measured.trial.quantity
    assert [len(curve) for curve in (*measured.untied_curves, *measured.tied_curves)] == [2] * 4


def test_the_stuck_run_is_switched_by_its_defect(tiny_stuck) -> None:
    tied, untied = (with_tying(tiny_stuck, 5, tied=tied) for tied in (True, False))
    assert (tied.defects.untied_head, untied.defects.untied_head) == (False, True)
    assert tied.train.steps == 5


def test_a_single_seed_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match=r"seeds \(1\) must be at least 2"):
        tying(tiny, seeds=1, steps=1, workers=1)


def test_a_run_that_fails_is_named() -> None:
    failed = [Outcome(regime="fresh batches", seed=7, failure="RuntimeError: out of memory")]
    with pytest.raises(ValueError, match="seed 7 has no held-out loss: RuntimeError: out of memory"):
        trial_of(failed, failed)


def test_a_run_that_diverges_is_named() -> None:
    wild = [Outcome(regime="fresh batches", seed=7, honest=math.nan)]
    with pytest.raises(ValueError, match=r"seed 7 diverged: its held-out loss is nan; lower optim\.lr"):
        trial_of(wild, wild)


def test_without_text_the_losses_are_in_nats() -> None:
    runs = [Outcome(regime="fresh batches", seed=0, honest=2.0), Outcome(regime="fresh batches", seed=1, honest=3.0)]
    trial = trial_of(runs, runs)
    assert "nats per token" in trial.quantity
    assert trial.before == (2.0, 3.0)


def test_the_command_shows_pairs_noise_and_parameters(run, small, tmp_path) -> None:
    ended = run("tying", *small, "--steps", 2, "--seeds", 2, "--workers", 1, "--out", tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "tying.json").read_text())
    assert ended.code == 0
    for seed in (0, 1):
        untied, tied = kept["trial"]["before"][seed], kept["trial"]["after"][seed]
        assert f"{seed:<12}{untied:>10.4f}{tied:>10.4f}{untied - tied:>+10.4f}\n" in ended.out
    saved = kept["untied_parameters"] - kept["tied_parameters"]
    assert f"{saved:,} saved" in ended.out
    assert (tmp_path / "out" / "pictures" / "tying.png").exists()
    assert (tmp_path / "out" / "tables" / "tying.csv").read_text().startswith("seed,untied,tied")
    assert ended.out.splitlines()[-1].startswith("next        unplateau ")
