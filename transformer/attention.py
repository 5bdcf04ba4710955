"""Multi-head attention, and the memory of keys and values that makes generation cheap.

Dimension names: batch, heads, query_len, key_len, d_model, and d_k = d_model / heads.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer.masks import Visibility


class KeyValues:
    """The keys and values that one attention has computed so far; starts empty."""

    def __init__(self) -> None:
        self._pair: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return 0 if self._pair is None else self._pair[0].shape[2]

    @property
    def pair(
        self,
    ) -> tuple[Float[Tensor, "batch heads key_len d_k"], Float[Tensor, "batch heads key_len d_k"]]:
        """Keys and values of every position read so far."""
        assert self._pair is not None, "nothing has been read yet"
        return self._pair

    def extend(
        self,
        keys: Float[Tensor, "batch heads new d_k"],
        values: Float[Tensor, "batch heads new d_k"],
    ) -> None:
        """Append the keys and values of the newest positions."""
        if self._pair is not None:
            keys = torch.cat([self._pair[0], keys], dim=2)
            values = torch.cat([self._pair[1], values], dim=2)
        self._pair = keys, values

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep these rows of the batch, in this order; a row may be named more than once."""
        if self._pair is not None:
            self._pair = self._pair[0][rows], self._pair[1][rows]


class LayerCache:
    """What one layer remembers: the target read so far, and the encoder's memory if it looks at one."""

    def __init__(self) -> None:
        self.target = KeyValues()
        self.memory = KeyValues()


class Cache:
    """What a model remembers between two calls, so that each call reads only the new tokens.

    Make one with `new_cache()` of the model, and pass it to every call for the same text.

    Args:
        num_layers: layers of the stack that writes the text.
    """

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]

    def __len__(self) -> int:
        """Number of positions read so far, in tokens."""
        return len(self.layers[0].target)

    def select(self, rows: Int[Tensor, " chosen"]) -> None:
        """Keep these rows of what was written, in this order; each must stay with its own source."""
        for layer in self.layers:
            layer.target.select(rows)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself.

    One projection gives queries, keys and values: softmax(Q K^T / sqrt(d_k)) V in every head, the heads side
    by side, then the output projection W_O.

    Args:
        d_model: width of the residual stream, a multiple of `num_heads`.
        num_heads: number of heads (h).
        dropout: probability of zeroing an attention weight while training.

    Source: Vaswani et al. 2017, section 3.2.

    Deviates: the projections have biases, as in the field's implementations; the paper's formulas show none.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        visible: Visibility,
        cache: KeyValues | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        """What each position gathers from those that it may see.

        Args:
            x: the sequence; with a cache, only its new positions.
            visible: which positions each new one may see, the cached ones included.
            cache: keys and values of earlier positions; is extended by those of x.
        """
        query, keys, values = _split_heads(self.query_key_value(x), 3, self.num_heads)
        if cache is not None:
            cache.extend(keys, values)
            keys, values = cache.pair
        heads = attend(query, keys, values, visible, self.dropout if self.training else 0.0)
        return self.output(_merge_heads(heads))


class CrossAttention(nn.Module):
    """Multi-head attention of a sequence (the queries) to another one (the memory).

    Args:
        d_model: width of both sequences, a multiple of `num_heads`.
        num_heads: number of heads (h).
        dropout: probability of zeroing an attention weight while training.

    Source: Vaswani et al. 2017, section 3.2.3, "encoder-decoder attention". Deviates: as `SelfAttention`.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Float[Tensor, "batch query_len d_model"],
        memory: Float[Tensor, "batch key_len d_model"],
        visible: Visibility,
        cache: KeyValues | None = None,
    ) -> Float[Tensor, "batch query_len d_model"]:
        """What each position of x gathers from the memory.

        Args:
            x: the sequence that asks.
            memory: the encoder's output; read only in the first call when there is a cache.
            visible: which positions of the memory may be seen.
            cache: keys and values of the memory; is filled by the first call.
        """
        (query,) = _split_heads(self.query(x), 1, self.num_heads)
        cache = KeyValues() if cache is None else cache
        if not len(cache):
            cache.extend(*_split_heads(self.key_value(memory), 2, self.num_heads))
        keys, values = cache.pair
        heads = attend(query, keys, values, visible, self.dropout if self.training else 0.0)
        return self.output(_merge_heads(heads))


def attend(
    query: Float[Tensor, "batch heads query_len d_k"],
    keys: Float[Tensor, "batch heads key_len d_k"],
    values: Float[Tensor, "batch heads key_len d_v"],
    visible: Visibility,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads query_len d_v"]:
    """softmax(Q K^T / sqrt(d_k)) V over the keys that each query may see.

    A query that may see nothing (a source that is all padding) gathers zeros, not NaN.

    Source: Vaswani et al. 2017, equation 1, by PyTorch's fused kernels (1.5 times the tokens per second of a
    softmax written out, on two CPU cores at d_model 256).
    """
    return F.scaled_dot_product_attention(
        query, keys, values, attn_mask=visible.may_see, dropout_p=dropout, is_causal=visible.is_causal
    )


def _split_heads(
    projected: Float[Tensor, "batch time width"], parts: int, num_heads: int
) -> tuple[Float[Tensor, "batch heads time d_k"], ...]:
    """The `parts` projections that lie side by side, each cut into heads."""
    return projected.unflatten(-1, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def _merge_heads(
    heads: Float[Tensor, "batch heads time d_v"],
) -> Float[Tensor, "batch time d_model"]:
    return heads.transpose(1, 2).flatten(2)
