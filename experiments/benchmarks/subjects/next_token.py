"""Healthy language models that read the Markov chain."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.subject import Subject
from experiments.benchmarks.subjects.markov import CONTEXT, VOCAB, language_model
from experiments.config import DefectsConfig
from experiments.stuck import StuckModel, generation_logits
from transformer import LanguageModel, ModelConfig


class TorchEncoderLM(nn.Module):
    """A decoder-only language model of torch's own encoder layers under a causal mask."""

    def __init__(self, width: int = 16, layers: int = 2, dropout: float = 0.1, norm_first: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, width)
        self.positions = nn.Parameter(torch.randn(CONTEXT, width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width - 3, dropout=dropout, batch_first=True, norm_first=norm_first
        )
        last = nn.LayerNorm(width) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, layers, norm=last, enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        time = tokens.shape[1]
        hidden = torch.triu(torch.ones(time, time, dtype=torch.bool), diagonal=1)
        return self.head(self.encoder(self.embedding(tokens) + self.positions[:time], mask=hidden))


class GruLM(nn.Module):
    """A recurrent language model."""

    def __init__(self, width: int = 31, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 19)
        self.gru = nn.GRU(19, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.gru(self.embedding(tokens))[0])


def torch_encoder(
    *, width: int = 16, layers: int = 2, dropout: float = 0.1, norm_first: bool = True, lr: float = 3e-3
) -> Subject:
    """torch's own encoder as a causal language model."""
    return language_model("torch-encoder", lambda: TorchEncoderLM(width, layers, dropout, norm_first), lr)


def gru(*, width: int = 31, layers: int = 1, dropout: float = 0.0, lr: float = 1e-2) -> Subject:
    """A GRU language model."""
    return language_model("gru", lambda: GruLM(width, layers, dropout), lr)


def gpt2(*, width: int = 16, layers: int = 2, dropout: float = 0.1, lr: float = 3e-3) -> Subject:
    """Hugging Face's GPT-2 from a config, which returns an object with ``.logits``."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=width,
        n_layer=layers,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt2 = GPT2LMHeadModel(config)

        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            return self.gpt2(tokens, use_cache=False).logits

    return language_model("gpt2", Logits, lr)


def decoder_only(
    *, width: int = 16, layers: int = 2, dropout: float = 0.1, norm_first: bool = True, lr: float = 5e-3
) -> Subject:
    """Our own decoder-only model: tied weights, sinusoidal positions."""
    config = ModelConfig(
        vocab_size=VOCAB,
        d_model=width,
        num_heads=2,
        num_layers=layers,
        dropout=dropout,
        max_len=CONTEXT,
        norm="before" if norm_first else "after",
    )
    return language_model("decoder-only", lambda: LanguageModel(config), lr)


def encoder_decoder(**defects: bool) -> Subject:
    """The stuck run's model on the Markov chain, healthy unless switches say otherwise; called as model(x, y)."""
    switched = DefectsConfig(**defects)

    def make() -> nn.Module:
        return StuckModel(
            vocab_size=VOCAB,
            d_model=16,
            num_heads=2,
            num_layers=2,
            d_ff=29,
            context=CONTEXT,
            dropout=0.1,
            defects=switched,
        )

    subject = language_model("encoder-decoder", make, lr=3e-3)
    assert subject.token_view is not None

    def logits(model: nn.Module, tokens: Int[Tensor, "batch stream"]) -> Float[Tensor, "batch time vocab"]:
        return model(tokens[:, :-1], tokens[:, 1:])

    def loss(model: nn.Module, tokens: Int[Tensor, "batch stream"]) -> Float[Tensor, ""]:
        return F.cross_entropy(logits(model, tokens).flatten(0, 1), tokens[:, 1:].flatten())

    def next_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        assert isinstance(model, StuckModel)
        return generation_logits(model, tokens)

    return replace(
        subject,
        loss=loss,
        token_view=replace(subject.token_view, logits=logits, next_logits=next_logits),
    )
