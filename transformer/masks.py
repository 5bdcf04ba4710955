"""Which keys a query may see. Every table is boolean, and true where a query may look."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class Visibility:
    """What the queries of an attention may see.

    The causal rule has a flag of its own because the fast attention kernels know it by name: they then
    neither build nor read a table.

    Args:
        may_see: true where a query may see a key, broadcast over batch and heads; None hides nothing.
        is_causal: query i sees the keys 0 ... i and no other; needs as many keys as queries.

    Raises:
        ValueError: if both are given.
    """

    may_see: Bool[Tensor, "*batch_and_heads query_len key_len"] | None = None
    is_causal: bool = False

    def __post_init__(self) -> None:
        if self.is_causal and self.may_see is not None:
            raise ValueError("is_causal (True) excludes may_see; put the causal rule into may_see with &")


EVERYTHING = Visibility()


def causal_mask(query_len: int, key_len: int, device: torch.device | None = None) -> Bool[Tensor, "query_len key_len"]:
    """May-see table in which nothing looks ahead; the last query is the newest key.

    Args:
        query_len: number of queries, in tokens.
        key_len: number of keys, in tokens; more than `query_len` when earlier keys come from a cache.

    Returns: true at [i, j] where j <= i + key_len - query_len.

    Source: Vaswani et al. 2017, section 3.2.3.

    >>> causal_mask(2, 3).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    ones = torch.ones(query_len, key_len, dtype=torch.bool, device=device)
    return ones.tril(diagonal=key_len - query_len)


def except_padding(is_padding: Bool[Tensor, "batch key_len"] | None) -> Visibility:
    """Every query sees every key that is not padding; None means that there is no padding."""
    if is_padding is None:
        return EVERYTHING
    return Visibility(may_see=_columns(~is_padding))


def up_to_itself(
    query_len: int,
    key_len: int,
    is_padding: Bool[Tensor, "batch {key_len}"] | None = None,
    device: torch.device | None = None,
) -> Visibility:
    """Every query sees the keys up to its own position that are not padding.

    Args:
        query_len: number of queries; they are the newest of the keys.
        key_len: number of keys, the cached ones included.
        is_padding: true where a key is padding, for all `key_len` of them; None means nowhere.
        device: where the table lies.
    """
    if is_padding is not None:
        return Visibility(may_see=causal_mask(query_len, key_len, device) & _columns(~is_padding))
    if query_len == key_len:
        return Visibility(is_causal=True)
    if query_len == 1:  # the newest position sees all that was read
        return EVERYTHING
    return Visibility(may_see=causal_mask(query_len, key_len, device))


def _columns(per_key: Bool[Tensor, "batch key_len"]) -> Bool[Tensor, "batch 1 1 key_len"]:
    return per_key[:, None, None, :]
