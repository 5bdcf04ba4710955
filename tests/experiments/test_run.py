"""A run in memory: its columns, its settings, its best value."""

import math

import numpy as np
import pytest

from experiments.run import Logged, Run, flat, larger_is_better, shown

ROWS = [
    {"step": 2, "tokens": 14, "train/loss": 3.5},
    {"step": 3, "tokens": 21, "train/loss": 2.5},
    {"step": 3, "tokens": 21, "val/bleu": 11.0},
    {"step": 5},
]


def run(rows: list[dict[str, float]]) -> Run:
    return Run(
        name="a", id="a", where="a", state="finished", began=0.0, last_written=0.0, config={}, logged=Logged.of(rows)
    )


def test_columns_are_the_axes_then_the_metrics_by_name_without_empty_rows() -> None:
    logged = Logged.of(ROWS)
    assert list(logged.columns) == ["step", "tokens", "train/loss", "val/bleu"]
    assert len(logged) == 3
    assert logged.columns["step"].tolist() == [2, 3, 3]
    np.testing.assert_equal(logged.columns["val/bleu"], [math.nan, math.nan, 11.0])
    assert len(Logged.of([])) == 0


def test_the_best_value_is_the_lowest_loss_and_the_highest_score() -> None:
    found = run([*ROWS, {"step": 7, "train/loss": 3.0}, {"step": 7, "val/bleu": 7.0}])
    assert (found.best("train/loss"), found.best("val/bleu")) == (2.5, 11.0)
    assert math.isnan(found.best("val/loss"))
    assert found.steps == 7


def test_a_run_that_went_astray_is_seen_in_its_last_value() -> None:
    found = run([{"step": 2, "train/loss": 2.5}, {"step": 3, "train/loss": math.nan}])
    assert found.best("train/loss") == 2.5
    assert math.isnan(found.logged.last["train/loss"])


def test_settings_are_flat_and_plain() -> None:
    tree = {"optim": {"betas": [0.9, 0.95], "lr": 1}, "pairs": None, "_wandb": {"t": 2}, "stages": [{"lr": 0.1}]}
    assert flat(tree) == {"optim.betas": (0.9, 0.95), "optim.lr": 1, "pairs": None, "stages": ('{"lr": 0.1}',)}


def test_a_setting_is_shown_as_it_is_typed() -> None:
    assert [shown(each) for each in (1e-3, 7, None, True, (0.9, 2), "gpt4")] == [
        "0.001", "7", "none", "true", "0.9,2", "gpt4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        ("val/loss", False),
        ("val/bits_per_byte", False),
        ("grad/norm", False),
        ("eval_accuracy", True),
        ("val/F1", True),
    ],
)
def test_scores_are_better_the_larger_they_are(metric: str, larger: bool) -> None:
    assert larger_is_better(metric) == larger
