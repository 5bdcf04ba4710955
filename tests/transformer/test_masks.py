"""Masks: true where a query may look."""

import pytest
import torch

from transformer import EVERYTHING, Visibility, causal_mask, except_padding, up_to_itself


def test_a_query_sees_the_keys_up_to_itself() -> None:
    assert causal_mask(3, 3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_with_older_keys_the_last_query_is_the_newest_key() -> None:
    for query_len, key_len in [(2, 5), (3, 7), (1, 11)]:
        assert torch.equal(causal_mask(query_len, key_len), causal_mask(key_len, key_len)[-query_len:])


def test_padding_is_hidden_from_every_query() -> None:
    is_padding = torch.tensor([[False, False, True], [False, True, True]])
    may_see = except_padding(is_padding).may_see
    assert may_see is not None
    assert may_see.expand(2, 1, 5, 3)[1, 0].tolist() == [[True, False, False]] * 5


def test_no_padding_hides_nothing() -> None:
    assert except_padding(None) is EVERYTHING


def test_a_whole_sequence_uses_the_kernels_own_causal_rule() -> None:
    assert up_to_itself(7, 7) == Visibility(is_causal=True)


def test_one_new_query_sees_all_that_was_read() -> None:
    assert up_to_itself(1, 7) is EVERYTHING


def test_several_new_queries_get_the_last_rows_of_the_table() -> None:
    may_see = up_to_itself(3, 7).may_see
    assert may_see is not None
    assert torch.equal(may_see, causal_mask(7, 7)[-3:])


def test_padding_and_the_causal_rule_hold_together() -> None:
    is_padding = torch.tensor([[False, True, False], [False, False, True]])
    may_see = up_to_itself(3, 3, is_padding).may_see
    assert may_see is not None
    assert may_see[0, 0].tolist() == [[True, False, False], [True, False, False], [True, False, True]]
    assert may_see[1, 0].tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_a_table_and_the_causal_rule_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"is_causal \(True\) excludes may_see; put the causal rule into"):
        Visibility(may_see=causal_mask(2, 2), is_causal=True)
