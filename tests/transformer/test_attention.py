"""Attention against the formula, against torch, and its memory of keys and values."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from transformer import EVERYTHING, CrossAttention, SelfAttention, Visibility, attend, causal_mask
from transformer.attention import KeyValues

BATCH, HEADS, QUERY_LEN, KEY_LEN, D_K, D_V = 2, 3, 5, 7, 11, 13


def by_formula(query: Tensor, keys: Tensor, values: Tensor, may_see: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) V, entry by entry as equation 1 has it."""
    scores = query @ keys.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~may_see, -math.inf).exp()
    return weights / weights.sum(dim=-1, keepdim=True) @ values


def test_attention_equals_the_papers_formula_and_torch() -> None:
    query = torch.randn(BATCH, HEADS, QUERY_LEN, D_K)
    keys, values = torch.randn(BATCH, HEADS, KEY_LEN, D_K), torch.randn(BATCH, HEADS, KEY_LEN, D_V)
    for may_see in (torch.ones(QUERY_LEN, KEY_LEN, dtype=torch.bool), causal_mask(QUERY_LEN, KEY_LEN)):
        actual = attend(query, keys, values, Visibility(may_see=may_see))
        torch.testing.assert_close(by_formula(query, keys, values, may_see), actual, rtol=0, atol=1e-12)
        expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=may_see)
        torch.testing.assert_close(expected, actual, rtol=0, atol=1e-12)


def test_the_causal_flag_equals_the_causal_table() -> None:
    query, keys, values = (torch.randn(BATCH, HEADS, KEY_LEN, D_K) for _ in range(3))
    by_flag = attend(query, keys, values, Visibility(is_causal=True))
    by_table = attend(query, keys, values, Visibility(may_see=causal_mask(KEY_LEN, KEY_LEN)))
    torch.testing.assert_close(by_table, by_flag, rtol=0, atol=1e-12)


def test_two_keys_by_hand() -> None:
    """d_k = 1, query 1, keys 0 and ln 3: weights 1/4 and 3/4, so values 4 and 8 give 7."""
    query, values = torch.ones(1, 1, 1, 1), torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    keys = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    assert math.isclose(7.0, attend(query, keys, values, EVERYTHING).item(), rel_tol=1e-14)


def test_a_query_that_sees_nothing_gathers_zeros_with_finite_gradients() -> None:
    query = torch.randn(1, 1, 2, 3, requires_grad=True)
    may_see = torch.tensor([[True, True], [False, False]])
    gathered = attend(query, torch.randn(1, 1, 2, 3), torch.randn(1, 1, 2, 3), Visibility(may_see=may_see))
    gathered.sum().backward()
    assert gathered[0, 0, 1].tolist() == [0.0, 0.0, 0.0]
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_self_attention_is_cross_attention_to_itself() -> None:
    own, cross = SelfAttention(15, 3), CrossAttention(15, 3)
    cross.query.weight.data, cross.key_value.weight.data = own.query_key_value.weight.data.split([15, 30])
    cross.query.bias.data, cross.key_value.bias.data = own.query_key_value.bias.data.split([15, 30])
    cross.output.load_state_dict(own.output.state_dict())
    x = torch.randn(2, 7, 15)
    torch.testing.assert_close(own(x, EVERYTHING), cross(x, x, EVERYTHING), rtol=0, atol=1e-12)


def test_attention_weights_are_dropped_only_where_asked_and_only_while_training() -> None:
    x = torch.randn(2, 7, 15)
    for dropout, training, repeats in [(0.0, True, True), (0.5, True, False), (0.5, False, True)]:
        attention = SelfAttention(15, 3, dropout).train(training)
        assert torch.equal(attention(x, EVERYTHING), attention(x, EVERYTHING)) == repeats


def test_key_values_grow_in_order_and_follow_their_rows() -> None:
    keys, values = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)
    cache = KeyValues()
    assert len(cache) == 0
    cache.extend(keys[:, :, :2], values[:, :, :2])
    cache.extend(keys[:, :, 2:], values[:, :, 2:])
    assert len(cache) == 7
    assert torch.equal(keys, cache.pair[0])
    cache.select(torch.tensor([1, 1, 0]))
    assert torch.equal(values[[1, 1, 0]], cache.pair[1])


def test_cross_attention_reads_the_memory_once() -> None:
    attention, cache = CrossAttention(15, 3), KeyValues()
    x, memory = torch.randn(2, 5, 15), torch.randn(2, 7, 15)
    first = attention(x, memory, EVERYTHING, cache)
    again = attention(x, torch.full_like(memory, math.nan), EVERYTHING, cache)
    assert torch.equal(first, again)
