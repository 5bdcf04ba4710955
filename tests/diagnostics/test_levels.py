"""Reference levels against counts that can be done by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics import levels
from tests import subjects

HALF = math.log(2)


def test_the_uniform_level_is_the_log_of_the_vocabulary() -> None:
    assert levels.uniform(8063).nats == math.log(8063)


def test_the_double_softmax_confines_the_loss_to_one_nat() -> None:
    floor, ceiling = levels.double_softmax_floor(8063).nats, levels.double_softmax_ceiling(8063).nats
    assert ceiling - floor == pytest.approx(1.0)
    one_hot = torch.zeros(1, 8063, dtype=torch.float64)
    one_hot[0, 5] = 1
    assert floor == pytest.approx(float(torch.nn.functional.cross_entropy(one_hot, torch.tensor([5]))))
    assert ceiling == pytest.approx(float(torch.nn.functional.cross_entropy(one_hot, torch.tensor([7]))))


def test_the_ceiling_and_the_uniform_level_differ_in_the_fourth_decimal() -> None:
    assert 1e-4 < levels.double_softmax_ceiling(8063).nats - levels.uniform(8063).nats < 3e-4


def test_entropy_ignores_what_never_occurs() -> None:
    assert levels.entropy(torch.tensor([3, 0, 3])) == pytest.approx(HALF)
    assert levels.entropy(torch.tensor([5])) == 0.0


def test_unigram_is_the_entropy_of_the_frequencies() -> None:
    assert levels.unigram(torch.tensor([0, 0, 1, 2]), 5).nats == pytest.approx(1.5 * HALF)


def test_bigram_is_what_is_left_when_the_current_token_is_known() -> None:
    alternating = torch.tensor([0, 1] * 11)
    assert levels.bigram(alternating, 3).nats == pytest.approx(0.0, abs=1e-12)
    # After 0 comes 0 or 1 (once each), after 1 comes 0 or 1 (once each).
    assert levels.bigram(torch.tensor([0, 0, 1, 1, 0]), 2).nats == pytest.approx(HALF)


def test_pairs_cross_neither_rows_nor_gaps() -> None:
    rows = torch.tensor([[0, 1], [0, 1], [2, 0]])
    with_gaps = torch.tensor([0, 1, -1, 0, 1, -1, 2, 0])
    assert levels.bigram(rows, 3).nats == levels.bigram(with_gaps, 3).nats == pytest.approx(0.0, abs=1e-12)


def test_the_heldout_unigram_raises_every_count() -> None:
    nats = levels.heldout_unigram(torch.tensor([0, 0, 1]), torch.tensor([0, 2]), 3).nats
    assert nats == pytest.approx(-(math.log(3 / 6) + math.log(1 / 6)) / 2)


def test_the_heldout_bigram_falls_back_on_frequencies() -> None:
    # Frequencies raised by one: 3/8, 3/8, 1/8, 1/8. After 0 comes 1 both times: one kind of successor.
    train, heldout = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1])
    assert levels.heldout_bigram(train, heldout, 4).nats == pytest.approx(-math.log((2 + 3 / 8) / 3))
    # 2 was never followed by anything: p(0) alone.
    assert levels.heldout_bigram(train, torch.tensor([2, 0]), 4).nats == pytest.approx(-math.log(3 / 8))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=29), st.integers(0, 4))
def test_the_heldout_bigram_is_a_distribution_over_what_follows(train: list[int], before: int) -> None:
    given_before = [levels.heldout_bigram(torch.tensor(train), torch.tensor([before, t]), 5).nats for t in range(5)]
    assert sum(math.exp(-nats) for nats in given_before) == pytest.approx(1.0)


def test_the_heldout_bigram_of_the_markov_chain_is_near_its_entropy() -> None:
    level = levels.heldout_bigram(subjects.TRAIN, subjects.HELDOUT, subjects.VOCAB)
    assert subjects.LOWEST_LOSS < level.nats < subjects.LOWEST_LOSS + 0.05


def test_levels_of_targets_come_from_high_to_low_and_leave_gaps_out() -> None:
    found = levels.levels_of_targets(torch.tensor([[0, 1, 0, 1], [1, 0, -1, -1]]), 23)
    assert [level.name for level in found] == [
        "double-softmax ceiling",
        "uniform",
        "double-softmax floor",
        "unigram",
        "bigram",
    ]
    assert found[3].nats == pytest.approx(HALF)


def test_the_nearest_level_is_the_closest_in_nats() -> None:
    found = levels.levels_of_targets(torch.tensor([[0, 1, 0, 1]]), 8063)
    assert levels.nearest(found, 8.9953).name == "double-softmax ceiling"
    assert levels.nearest(found, 8.9950).name == "uniform"


def test_bits_per_byte_compares_vocabularies() -> None:
    assert levels.bits_per_byte(HALF, tokens=6, text_bytes=3) == pytest.approx(2.0)
