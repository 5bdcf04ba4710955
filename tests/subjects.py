"""Healthy subjects to plant faults in: no probe may raise an alarm on any of them.

All of them learn something that can be worked out: the language models read a Markov chain in which each token has
``BRANCHES`` equally likely successors, so the lowest honest loss is ln(BRANCHES); the classifier separates points.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.subject import LossHistory, Subject, TextView, TokenView

VOCAB, CONTEXT, BATCH, BRANCHES = 23, 11, 13, 3
LOWEST_LOSS = math.log(BRANCHES)
BATCHES_PER_PASS = 17


def markov_stream(length: int, seed: int) -> Int[Tensor, " length"]:
    """A chain in which each token has BRANCHES equally likely successors; the chain itself is always the same one."""
    successors = torch.stack(
        [torch.randperm(VOCAB, generator=torch.Generator().manual_seed(token))[:BRANCHES] for token in range(VOCAB)]
    )
    choices = torch.randint(BRANCHES, (length,), generator=torch.Generator().manual_seed(seed + 1000))
    stream = [int(choices[0])]
    for choice in choices[1:]:
        stream.append(int(successors[stream[-1], choice]))
    return torch.tensor(stream)


TRAIN, HELDOUT = markov_stream(4001, seed=0), markov_stream(2003, seed=1)


def windows(stream: Int[Tensor, " length"]) -> Callable[[int], Iterator[Int[Tensor, "batch stream"]]]:
    """seed -> random windows of CONTEXT + 1 tokens."""

    def batches(seed: int) -> Iterator[Int[Tensor, "batch stream"]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(BATCHES_PER_PASS):
            starts = torch.randint(len(stream) - CONTEXT, (BATCH,), generator=generator)
            yield stream[starts[:, None] + torch.arange(CONTEXT + 1)]

    return batches


class TorchEncoderLM(nn.Module):
    """A decoder-only language model of torch's own encoder layers under a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 16)
        self.positions = nn.Parameter(torch.randn(CONTEXT, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 29, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
        self.head = nn.Linear(16, VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        time = tokens.shape[1]
        hidden = torch.triu(torch.ones(time, time, dtype=torch.bool), diagonal=1)
        return self.head(self.encoder(self.embedding(tokens) + self.positions[:time], mask=hidden))


class GruLM(nn.Module):
    """A recurrent language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 19)
        self.gru = nn.GRU(19, 31, batch_first=True)
        self.head = nn.Linear(31, VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.gru(self.embedding(tokens))[0])


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "batch stream"]) -> Float[Tensor, ""]:
    """Cross-entropy of each token given those before it."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """seed -> a freshly initialised model."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make()

    return build


def language_model(name: str, make: Callable[[], nn.Module], lr: float) -> Subject:
    """A healthy language model on the Markov chain, with every capability."""

    def last_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        was_training = model.training
        scores = model.eval()(tokens)[:, -1]
        model.train(was_training)
        return scores

    view = TokenView(
        vocab_size=VOCAB,
        tokens=lambda tokens: tokens,
        with_tokens=lambda tokens, other: other,
        logits=lambda model, tokens: model(tokens[:, :-1]),
        targets=lambda tokens: tokens[:, 1:],
        next_logits=last_logits,
    )
    build = seeded(make)
    return Subject(
        name=name,
        model=build(0),
        build=build,
        loss=next_token_loss,
        batches=windows(TRAIN),
        heldout=windows(HELDOUT),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=lr),
        clip_norm=1.0,
        token_view=view,
        text_view=TextView(
            token_bytes=[bytes([97 + token]) for token in range(VOCAB)],
            train_tokens=TRAIN,
            heldout_tokens=HELDOUT,
            heldout_bytes=len(HELDOUT),
        ),
    )


def torch_encoder() -> Subject:
    """torch's own encoder as a causal language model."""
    return language_model("torch-encoder", TorchEncoderLM, lr=3e-3)


def gru() -> Subject:
    """A GRU language model."""
    return language_model("gru", GruLM, lr=1e-2)


def gpt2() -> Subject:
    """Hugging Face's GPT-2 from a config, which returns an object with ``.logits``."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gpt2 = GPT2LMHeadModel(config)

        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            return self.gpt2(tokens, use_cache=False).logits

    return language_model("gpt2", Logits, lr=3e-3)


def mlp() -> Subject:
    """A classifier of points in the plane: no token view, with a batch norm."""

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(BATCHES_PER_PASS):
            points = torch.randn(37, 5, generator=generator)
            yield points, (points[:, 0] > 0).long() + (points[:, 1] > 0).long()

    build = seeded(lambda: nn.Sequential(nn.Linear(5, 31), nn.BatchNorm1d(31), nn.ReLU(), nn.Linear(31, 3)))
    return Subject(
        name="mlp",
        model=build(0),
        build=build,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches=batches,
        heldout=lambda seed: batches(seed + 10_000),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
    )


def encoder_decoder(**defects: bool) -> Subject:
    """The stuck run's model on the Markov chain, healthy unless switches say otherwise; called as model(x, y)."""
    from experiments.config import DefectsConfig
    from experiments.stuck import StuckModel, generation_logits

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

    return replace(
        subject,
        loss=loss,
        token_view=replace(subject.token_view, logits=logits, next_logits=generation_logits),
    )


HEALTHY: dict[str, Callable[[], Subject]] = {
    "torch-encoder": torch_encoder,
    "gru": gru,
    "gpt2": gpt2,
    "mlp": mlp,
    "encoder-decoder": encoder_decoder,
}


def with_history(subject: Subject, losses: list[float]) -> Subject:
    """The same subject with a loss curve."""
    return replace(subject, history=LossHistory(losses=tuple(losses)))
