"""What a transformer is made of: one frozen value, validated when it is made."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

NormPlacement = Literal["after", "before"]
Positions = Literal["sinusoidal", "learned"]
Activation = Literal["relu", "gelu", "gelu-tanh"]

_CHOICES = {"norm": NormPlacement, "positions": Positions, "activation": Activation}
_COUNTS = ("vocab_size", "d_model", "num_heads", "num_layers", "d_ff", "max_len")
_PROBABILITIES = ("dropout", "attention_dropout")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The hyperparameters of a `LanguageModel` or a `Seq2Seq`; the defaults are the paper's base model.

    Args:
        vocab_size: number of token types, at least 1. A `Seq2Seq` uses it for source and target.
        d_model: width of the residual stream; a multiple of `num_heads`.
        num_heads: attention heads per layer; each is `d_model / num_heads` wide (d_k = d_v in the paper).
        num_layers: layers per stack (N); a `Seq2Seq` has two stacks.
        d_ff: inner width of the feed-forward layers; None means `4 * d_model`.
        dropout: probability of zeroing an entry of a sub-layer's output, and of the sum of embedding and
            position; in [0, 1).
        attention_dropout: probability of zeroing an attention weight, in [0, 1).
        max_len: the longest sequence in tokens, and the number of rows in the table of positions.
        norm: "after" normalises x + sublayer(x); "before" normalises only what the sub-layer reads, and adds
            a final norm per stack.
        norm_eps: what layer normalisation adds to the variance; above 0.
        tie_weights: embeddings and the pre-softmax projection are one matrix.
        positions: "sinusoidal" is fixed; "learned" is a parameter.
        activation: between the feed-forward layers; "gelu-tanh" is GPT-2's approximation of "gelu".
        scale_embedding: multiply embeddings by sqrt(d_model). Leave it on with sinusoidal positions, whose
            size is fixed; GPT-2 leaves it off.

    Raises:
        TypeError: if a count is not a whole number.
        ValueError: if a value is out of its range, or `d_model` is not a multiple of `num_heads`.

    Source: Vaswani et al. 2017, "Attention Is All You Need", sections 3 and 5.4, Table 3.

    Deviates: `attention_dropout` is not in the paper's text, so it is 0 by default.
    """

    vocab_size: int
    d_model: int = 512
    num_heads: int = 8
    num_layers: int = 6
    d_ff: int | None = None
    dropout: float = 0.1
    attention_dropout: float = 0.0
    max_len: int = 512
    norm: NormPlacement = "after"
    norm_eps: float = 1e-5
    tie_weights: bool = True
    positions: Positions = "sinusoidal"
    activation: Activation = "relu"
    scale_embedding: bool = True

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _require_count(name, getattr(self, name), optional=name == "d_ff")
        for name in _PROBABILITIES:
            _require_probability(name, getattr(self, name))
        for name, choices in _CHOICES.items():
            _require_choice(name, getattr(self, name), get_args(choices))
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps ({self.norm_eps}) must be above 0 and finite; 1e-5 is usual")
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})")

    @property
    def d_k(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.num_heads

    @property
    def feedforward_width(self) -> int:
        """Inner width of the feed-forward layers: `d_ff`, or `4 * d_model` where that is None."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff


def _require_count(name: str, value: object, *, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} ({value!r}) must be a whole number")
    if value < 1:
        raise ValueError(f"{name} ({value}) must be at least 1")


def _require_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} ({value}) must be at least 0 and below 1; 0 turns it off")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} ({value!r}) must be one of {', '.join(map(repr, choices))}")
