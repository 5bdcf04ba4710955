"""The parts of a stack: input embedding, feed-forward, residual connection, and the two kinds of layer."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from transformer.attention import CrossAttention, LayerCache, SelfAttention
from transformer.config import Activation, ModelConfig
from transformer.masks import Visibility

_LONGEST_WAVELENGTH = 10_000.0  # in units of 2 pi tokens; Vaswani et al. 2017, section 3.5


def sinusoidal_positions(length: int, d_model: int) -> Float64[Tensor, "length d_model"]:
    """The paper's table of positions, one row per position.

    Column 2i is sin(position / 10000^(2i / d_model)), column 2i + 1 is its cosine. An odd `d_model` ends with
    a sine.

    Source: Vaswani et al. 2017, section 3.5.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    exponent = torch.arange(0, d_model, 2, dtype=torch.float64) / d_model
    angles = position / _LONGEST_WAVELENGTH**exponent
    table = torch.empty(length, d_model, dtype=torch.float64)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles[:, : d_model // 2].cos()
    return table


class InputEmbedding(nn.Module):
    """dropout(embedding * sqrt(d_model) + position): what the first layer reads.

    Source: Vaswani et al. 2017, sections 3.4, 3.5 and 5.4.
    """

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.dropout = nn.Dropout(config.dropout)
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(config.max_len, config.d_model))
        else:  # a buffer moves with the model; nothing to save, since it can be computed again
            table = sinusoidal_positions(config.max_len, config.d_model).to(torch.get_default_dtype())
            self.register_buffer("positions", table, persistent=False)

    def forward(self, tokens: Int[Tensor, "batch time"], start: int = 0) -> Float[Tensor, "batch time d_model"]:
        """The embedded tokens, the first of which stands at position `start`.

        Raises:
            ValueError: if they reach beyond `max_len`, or a token is outside the vocabulary (on a CPU, where
                the look-up notices it for nothing; a GPU reports it as a device-side assert).
        """
        end = start + tokens.shape[1]
        if end > len(self.positions):
            raise ValueError(
                f"a sequence of {end} tokens is longer than max_len ({len(self.positions)}); "
                "cut it, or raise max_len in ModelConfig"
            )
        return self.dropout(self._look_up(tokens) * self.scale + self.positions[start:end])

    def _look_up(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d_model"]:
        try:
            return self.tokens(tokens)
        except IndexError:
            raise ValueError(
                f"tokens ({tokens.min().item()} ... {tokens.max().item()}) must be at least 0 and below "
                f"vocab_size ({self.tokens.num_embeddings}); do tokenizer and model belong together?"
            ) from None


_ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "gelu-tanh": partial(nn.GELU, approximate="tanh"),
}


class FeedForward(nn.Module):
    """activation(x W_1 + b_1) W_2 + b_2, at every position alike.

    Source: Vaswani et al. 2017, section 3.3.

    Deviates: torch's own layers drop out entries between the two; the paper and we do not.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]()
        self.inner = nn.Linear(config.d_model, config.feedforward_width)
        self.outer = nn.Linear(config.feedforward_width, config.d_model)

    def forward(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time d_model"]:
        return self.outer(self.activation(self.inner(x)))


class Residual(nn.Module):
    """A sub-layer with the connection around it.

    norm(x + dropout(sublayer(x))) where the norm comes after, x + dropout(sublayer(norm(x))) where it comes
    before.

    Source: Vaswani et al. 2017, sections 3.1 and 5.4; for "before" Xiong et al. 2020, "On Layer Normalization
    in the Transformer Architecture".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_first = config.norm == "before"
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch time d_model"]:
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward. With a causal `visible` it is the layer of a language model.

    Source: Vaswani et al. 2017, section 3.1, "Encoder".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.d_model, config.num_heads, config.attention_dropout)
        self.around_attention = Residual(config)
        self.feedforward = FeedForward(config)
        self.around_feedforward = Residual(config)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        visible: Visibility,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch time d_model"]:
        """The sequence after this layer; with a cache, x holds only its new positions."""
        read_before = None if cache is None else cache.target
        x = self.around_attention(x, lambda x: self.attention(x, visible, read_before))
        return self.around_feedforward(x, self.feedforward)


class DecoderLayer(nn.Module):
    """Self-attention, then attention to the encoder's memory, then feed-forward.

    Source: Vaswani et al. 2017, section 3.1, "Decoder".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.d_model, config.num_heads, config.attention_dropout)
        self.around_attention = Residual(config)
        self.cross_attention = CrossAttention(config.d_model, config.num_heads, config.attention_dropout)
        self.around_cross_attention = Residual(config)
        self.feedforward = FeedForward(config)
        self.around_feedforward = Residual(config)

    def forward(
        self,
        x: Float[Tensor, "batch target_len d_model"],
        memory: Float[Tensor, "batch source_len d_model"],
        visible: Visibility,
        visible_memory: Visibility,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "batch target_len d_model"]:
        """The target after this layer; with a cache, x holds only its new positions."""
        read_before, source = (None, None) if cache is None else (cache.target, cache.memory)
        x = self.around_attention(x, lambda x: self.attention(x, visible, read_before))
        x = self.around_cross_attention(x, lambda x: self.cross_attention(x, memory, visible_memory, source))
        return self.around_feedforward(x, self.feedforward)
