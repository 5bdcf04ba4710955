"""The stuck run's model: an encoder-decoder that predicts the next token, with one switch per defect.

The setup follows a public from-scratch Transformer whose loss never left 9.0. The encoder reads a window of
tokens, `x = stream[t : t + T]`, and the model is compared with the same window one token later, `y =
stream[t + 1 : t + T + 1]`. With every switch off this is a sound pre-norm language model: whatever a position
sees lies at or before it. With every switch on it is the run to explain. The switches are independent: any
subset can be repaired or planted.

Two of them are not architecture: `history_keeps_the_graph` belongs to the training loop, which reads it from
the same place, and `generation_differs_from_training` changes only `generation_logits`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from experiments.config import DefectsConfig


def sinusoidal_positions(length: int, d_model: int) -> Float[Tensor, "length d_model"]:
    """Sine and cosine of each position at wavelengths from 2 pi to 10000 * 2 pi, interleaved.

    Source: Vaswani et al. 2017, section 3.5.
    """
    wavelengths = 10_000 ** (torch.arange(0, d_model, 2) / d_model)
    angles = torch.arange(length)[:, None] / wavelengths
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(start_dim=1)


class PositionedEmbedding(nn.Module):
    """Token vectors times sqrt(d_model), plus sinusoidal positions; encoder and decoder share it.

    Sound: vectors drawn from N(0, 1/d_model), so that their scaled entries have unit size.
    `embedding_scale`: drawn from N(0, 1), and the entries have size sqrt(d_model).
    `positions_added_twice`: the sum is added to the vectors again, and dropout touches only that half.
    `parameters_not_registered`: the positions are a plain attribute: not saved, not moved by ``.to()``.
    """

    positions: Float[Tensor, "context d_model"]

    def __init__(self, *, vocab_size: int, d_model: int, context: int, dropout: float, defects: DefectsConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.tokens.weight, std=1.0 if defects.embedding_scale else d_model**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.scale = math.sqrt(d_model)
        self.added_twice = defects.positions_added_twice
        positions = sinusoidal_positions(context, d_model)
        if defects.parameters_not_registered:
            self.positions = positions
        else:
            self.register_buffer("positions", positions)

    def forward(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d_model"]:
        vectors = self.tokens(ids) * self.scale
        placed = self.dropout(vectors + self.positions[: ids.shape[1]])
        return vectors + placed if self.added_twice else placed


class DefectiveNorm(nn.Module):
    """Layer normalisation over the wrong axis, with the wrong parameters, or both.

    Args:
        over_time: Take mean and variance over positions instead of features. Every position then sees every
            other, and an input of one position becomes the bias, whatever it was.
        per_position: Scale and shift have shape (context, d_model) instead of (d_model,).
    """

    def __init__(self, *, d_model: int, context: int, over_time: bool, per_position: bool) -> None:
        super().__init__()
        shape = (context, d_model) if per_position else (1, d_model)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        self.over_time = over_time

    def forward(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time d_model"]:
        time = x.shape[1]
        if self.over_time:
            normal = F.layer_norm(x.transpose(1, 2), (time,)).transpose(1, 2)
        else:
            normal = F.layer_norm(x, x.shape[2:])
        return torch.addcmul(self.bias[:time], normal, self.weight[:time])


def layer_norm(*, d_model: int, context: int, defects: DefectsConfig) -> nn.Module:
    """The normalisation that the switches ask for: torch's own when both of its defects are off."""
    if not (defects.norm_over_the_wrong_axis or defects.per_position_affine):
        return nn.LayerNorm(d_model)
    return DefectiveNorm(
        d_model=d_model,
        context=context,
        over_time=defects.norm_over_the_wrong_axis,
        per_position=defects.per_position_affine,
    )


class Attention(nn.Module):
    """Multi-head attention, softmax(Q K^T / sqrt(d_k)) V, all heads in one projection.

    `no_output_projection`: the concatenated heads leave without a last linear map.
    """

    def __init__(self, *, d_model: int, num_heads: int, defects: DefectsConfig) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Identity() if defects.no_output_projection else nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Float[Tensor, "batch query_len d_model"],
        memory: Float[Tensor, "batch key_len d_model"],
        may_see: Bool[Tensor, "query_len key_len"] | None,
    ) -> Float[Tensor, "batch query_len d_model"]:
        """What each position of `x` gathers from `memory`; `may_see` None hides nothing."""
        split = (self.num_heads, x.shape[2] // self.num_heads)
        query = self.query(x).unflatten(2, split).transpose(1, 2)
        key, value = self.key_value(memory).unflatten(2, (2, *split)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(2, 3) / math.sqrt(split[1])
        if may_see is not None:
            scores = scores.masked_fill(~may_see, -math.inf)
        gathered = F.softmax(scores, dim=-1) @ value
        return self.output(gathered.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Two linear maps with a ReLU between, the same at every position."""

    def __init__(self, *, d_model: int, d_ff: int) -> None:
        super().__init__(nn.Linear(d_model, d_ff), nn.ReLU(), nn.Linear(d_ff, d_model))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, each added to the residual stream."""

    def __init__(
        self, *, d_model: int, num_heads: int, d_ff: int, context: int, dropout: float, defects: DefectsConfig
    ) -> None:
        super().__init__()
        self.self_attention_norm = layer_norm(d_model=d_model, context=context, defects=defects)
        self.self_attention = Attention(d_model=d_model, num_heads=num_heads, defects=defects)
        self.feed_forward_norm = layer_norm(d_model=d_model, context=context, defects=defects)
        self.feed_forward = FeedForward(d_model=d_model, d_ff=d_ff)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch time d_model"], may_see: Bool[Tensor, "time time"] | None
    ) -> Float[Tensor, "batch time d_model"]:
        normal = self.self_attention_norm(x)
        x = x + self.dropout(self.self_attention(normal, normal, may_see))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, attention to the encoder, and feed-forward."""

    def __init__(
        self, *, d_model: int, num_heads: int, d_ff: int, context: int, dropout: float, defects: DefectsConfig
    ) -> None:
        super().__init__()
        self.self_attention_norm = layer_norm(d_model=d_model, context=context, defects=defects)
        self.self_attention = Attention(d_model=d_model, num_heads=num_heads, defects=defects)
        self.cross_attention_norm = layer_norm(d_model=d_model, context=context, defects=defects)
        self.cross_attention = Attention(d_model=d_model, num_heads=num_heads, defects=defects)
        self.feed_forward_norm = layer_norm(d_model=d_model, context=context, defects=defects)
        self.feed_forward = FeedForward(d_model=d_model, d_ff=d_ff)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch time d_model"],
        memory: Float[Tensor, "batch time d_model"],
        may_see: Bool[Tensor, "time time"],
        may_see_memory: Bool[Tensor, "time time"] | None,
    ) -> Float[Tensor, "batch time d_model"]:
        normal = self.self_attention_norm(x)
        x = x + self.dropout(self.self_attention(normal, normal, may_see))
        x = x + self.dropout(self.cross_attention(self.cross_attention_norm(x), memory, may_see_memory))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class StuckModel(nn.Module):
    """An encoder-decoder next-token predictor, sound or defective by `defects`.

    Args:
        vocab_size: Number of token types.
        d_model: Width of the residual stream; even, and a multiple of `num_heads`.
        num_heads: Attention heads per attention.
        num_layers: Layers of the encoder, and again of the decoder.
        d_ff: Width inside the feed-forward blocks.
        context: Longest window that the model accepts, in tokens.
        dropout: Probability of dropping an entry of the embedding and of each block's output.
        defects: The switches. All off is a correct model.

    Raises:
        ValueError: If `d_model` is odd or no multiple of `num_heads`.

    Source: the run described in the module docstring. Sound form: Vaswani et al. 2017, with pre-norm layers
    and final norms (Xiong et al. 2020).
    """

    may_see: Bool[Tensor, "context context"]

    def __init__(
        self,
        *,
        vocab_size: int,
        d_model: int,
        num_heads: int,
        num_layers: int,
        d_ff: int,
        context: int,
        dropout: float,
        defects: DefectsConfig,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})")
        if d_model % 2:
            raise ValueError(f"d_model ({d_model}) must be even: positions are pairs of sine and cosine")
        self.context = context
        self.defects = defects
        layer = {"d_model": d_model, "num_heads": num_heads, "d_ff": d_ff, "context": context}
        self.embedding = PositionedEmbedding(
            vocab_size=vocab_size, d_model=d_model, context=context, dropout=dropout, defects=defects
        )
        self.encoder = nn.ModuleList(EncoderLayer(**layer, dropout=dropout, defects=defects) for _ in range(num_layers))
        self.decoder = nn.ModuleList(DecoderLayer(**layer, dropout=dropout, defects=defects) for _ in range(num_layers))
        self.encoder_norm = self._final_norm(d_model)
        self.decoder_norm = self._final_norm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=defects.untied_head)
        if not defects.untied_head:
            self.head.weight = self.embedding.tokens.weight
        self.register_buffer("may_see", torch.ones(context, context).tril().bool(), persistent=False)

    def _final_norm(self, d_model: int) -> nn.Module:
        if self.defects.no_final_norm:
            return nn.Identity()
        return layer_norm(d_model=d_model, context=self.context, defects=self.defects)

    def forward(self, x: Int[Tensor, "batch time"], y: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Logits for `y` (probabilities under `softmax_before_cross_entropy`).

        Args:
            x: The window of tokens.
            y: The same window one token later, which is also the target.

        Raises:
            ValueError: If the window is longer than the context.
        """
        decoder_input = y if self.defects.targets_not_shifted else torch.cat((x[:, :1], y[:, :-1]), dim=1)
        memory = self.encode(x)
        return self.output(self.decode(self.embedding(decoder_input), memory))

    def encode(self, x: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time d_model"]:
        """The encoder's view of a window; `future_token_leak` lifts its mask."""
        time = x.shape[1]
        if time > self.context:
            raise ValueError(f"time ({time}) must be at most context ({self.context}); cut the window")
        may_see = None if self.defects.future_token_leak else self.may_see[:time, :time]
        hidden = self.embedding(x)
        for layer in self.encoder:
            hidden = layer(hidden, may_see)
        return self.encoder_norm(hidden)

    def decode(
        self,
        embedded: Float[Tensor, "batch time d_model"],
        memory: Float[Tensor, "batch time d_model"],
    ) -> Float[Tensor, "batch time d_model"]:
        """The head's input: embedded decoder tokens after every layer and the final norm."""
        time = embedded.shape[1]
        may_see = self.may_see[:time, :time]
        may_see_memory = None if self.defects.future_token_leak else may_see
        hidden = embedded
        for layer in self.decoder:
            hidden = layer(hidden, memory, may_see, may_see_memory)
        return self.decoder_norm(hidden)

    def output(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """What the model hands to its caller: logits, or probabilities under the softmax defect."""
        logits = self.head(hidden)
        return F.softmax(logits, dim=-1) if self.defects.softmax_before_cross_entropy else logits


@torch.no_grad()
def generation_logits(model: StuckModel, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch vocab"]:
    """Scores for the next token: their softmax is the distribution that generation samples from.

    Encoder and decoder both read the last `context` tokens; nothing later exists, so nothing can leak. What the
    model returns is taken for logits, as the loss takes it: under `softmax_before_cross_entropy` it is softmaxed
    a second time, and the sample is as good as uniform whatever was learned. `generation_differs_from_training`
    goes as the original run does: the decoder is fed the encoder's output instead of tokens, and dropout stays on.

    Args:
        model: Its mode is restored afterwards.
        tokens: What has been said so far, at least one token.
    """
    differs = model.defects.generation_differs_from_training
    was_training = model.training
    model.train(differs)
    window = tokens[:, -model.context :]
    memory = model.encode(window)
    hidden = model.decode(memory if differs else model.embedding(window), memory)
    scores = model.output(hidden[:, -1])
    model.train(was_training)
    return scores
