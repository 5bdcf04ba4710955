"""The figures on what looking on costs: the counting by hand, and a contest of a tiny model run for real."""

import json
import statistics

import pytest

from experiments.benchmarks.observation import (
    LOOKS,
    Loop,
    Size,
    SplitAttention,
    contest,
    cost,
    interval_of_median,
    write,
)

TINY = Size(vocab=53, d_model=8, heads=2, layers=1, d_ff=11, context=7, batch=5)


def test_a_ratio_is_taken_within_each_pair() -> None:
    found = cost([1.0, 10.0, 100.0], [1.1, 10.0, 130.0])
    assert found.ratio == pytest.approx(1.1)
    assert (found.bare_ms, found.looked_at_ms) == (10_000, 10_000)


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    """Of 10 values 0 or 1 lie below the median with probability 11 / 1024 on each side: the 2nd and the 9th hold it."""
    assert interval_of_median([float(value) for value in range(1, 11)]) == (2, 9)


def test_few_values_have_their_extremes_as_interval() -> None:
    assert interval_of_median([3.0, 5.0, 7.0]) == (3, 7)


@pytest.mark.parametrize("name", [name for name in LOOKS if "wandb" not in name])
def test_a_loop_that_is_observed_has_the_losses_of_the_bare_one(name: str) -> None:
    found = contest(TINY, name, pairs=6)
    assert found.same_losses
    assert found.cpu.low <= found.cpu.ratio <= found.cpu.high
    assert found.cpu.bare_ms > 0


@pytest.mark.slow
def test_wandb_takes_part_in_the_contest() -> None:
    assert contest(TINY, "wandb.watch at every step", pairs=6).same_losses


def test_heads_can_have_projections_of_their_own() -> None:
    loop = Loop(Size(vocab=53, d_model=8, heads=2, layers=1, d_ff=11, context=7, batch=5, split_heads=True))
    split = [module for module in loop.model.modules() if isinstance(module, SplitAttention)]
    assert [len(each.query) + len(each.key) + len(each.value) for each in split] == [6, 6, 6]


def test_the_loop_learns() -> None:
    loop = Loop(TINY)
    for seed in range(200):
        loop.step(seed)
    assert statistics.mean(loop.losses[-10:]) < loop.losses[0] - 0.1


def test_the_figures_are_written_as_json(tmp_path) -> None:
    write(tmp_path, [contest(TINY, "observed, later steps", pairs=6)])
    (found,) = json.loads((tmp_path / "observation.json").read_text())["contests"]
    assert found["looks"] == "observed, later steps"
    assert found["cpu"]["ratio"] > 0
