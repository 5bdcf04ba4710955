"""What earlier tokens tell about the next, on streams whose entropy is known."""

import math

import pytest
import torch

from diagnostics.probe import read
from diagnostics.probes.entropy_floor import (
    ENTROPY_FLOOR,
    distinct_stretches,
    information,
    measure_floor,
    shuffled_within,
)
from tests import subjects


def test_a_markov_chain_tells_its_order() -> None:
    floor = read(ENTROPY_FLOOR, subjects.gru(), 0).measurement
    assert floor.bigram == pytest.approx(subjects.LOWEST_LOSS, abs=0.01)
    assert floor.information[0].excess == pytest.approx(floor.unigram - floor.bigram, abs=0.1)
    assert floor.information[1].excess > 0.5
    assert abs(floor.beyond_current.excess) < 5 * floor.beyond_current.chance_spread


def test_independent_tokens_tell_nothing() -> None:
    stream = torch.randint(23, (4001,), generator=torch.Generator().manual_seed(3))
    floor = measure_floor(distinct_stretches(iter([stream[None]])), seed=0)
    assert floor.unigram == pytest.approx(math.log(23), abs=0.01)
    assert all(told.excess < 5 * told.chance_spread for told in floor.information)


def test_a_token_that_returns_after_five_is_seen_at_its_distance() -> None:
    blocks = torch.randint(11, (701, 5), generator=torch.Generator().manual_seed(3))
    twice = torch.cat([blocks, blocks], dim=1)
    floor = measure_floor(distinct_stretches(iter([twice])), seed=0)
    strongest = max(range(7), key=lambda back: floor.information[back].excess)
    assert strongest + 1 == 5


def test_overlapping_windows_are_counted_once() -> None:
    stream = torch.randint(23, (211,), generator=torch.Generator().manual_seed(3))
    windows = stream.unfold(0, 11, 1)
    once, again = distinct_stretches(iter([stream[None]])), distinct_stretches(iter([windows, windows]))
    assert torch.equal(once, again)


def test_stretches_with_a_gap_are_left_out() -> None:
    assert distinct_stretches(iter([torch.tensor([[1, 2, -1]]), torch.tensor([[3, 4]])])).tolist() == [[1, 2], [3, 4]]


def test_only_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="no stretch of targets without a gap"):
        measure_floor(distinct_stretches(iter([torch.tensor([[-1, -1]])])), seed=0)


def test_rows_of_one_target_have_frequencies_only() -> None:
    floor = measure_floor(distinct_stretches(iter([torch.tensor([[1], [2], [3]])])), seed=0)
    assert (floor.information, floor.beyond_current) == ((), None)
    assert floor.unigram == pytest.approx(math.log(3) + 2 / 6)
    assert floor.bigram == floor.unigram


def test_a_copy_tells_everything() -> None:
    column = torch.arange(7).repeat(29)
    told = information(column, column, torch.Generator().manual_seed(0))
    assert told.nats == pytest.approx(math.log(7))


def test_shuffling_within_groups_keeps_every_group() -> None:
    groups, column = torch.arange(35) % 5, torch.arange(35)
    shuffled = shuffled_within(column, groups, torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, column)
    assert all(set(shuffled[groups == g].tolist()) == set(column[groups == g].tolist()) for g in range(5))
