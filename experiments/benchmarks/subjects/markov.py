"""Data with known limits: a Markov chain, and windows of it.

Each token has ``BRANCHES`` equally likely successors, so the lowest honest loss is ln(BRANCHES).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.subject import Subject, TextView, TokenView

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


def windows(
    stream: Int[Tensor, " length"], width: int = CONTEXT + 1
) -> Callable[[int], Iterator[Int[Tensor, "batch width"]]]:
    """seed -> random windows of ``width`` tokens."""

    def batches(seed: int) -> Iterator[Int[Tensor, "batch width"]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(BATCHES_PER_PASS):
            starts = torch.randint(len(stream) - width + 1, (BATCH,), generator=generator)
            yield stream[starts[:, None] + torch.arange(width)]

    return batches


def seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """seed -> a freshly initialised model."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make()

    return build


def adamw(lr: float) -> Callable[[nn.Module], Optimizer]:
    """model -> AdamW at a constant rate."""
    return lambda model: torch.optim.AdamW(model.parameters(), lr=lr)


def trained(name: str, make: Callable[[], nn.Module], lr: float, **given: Any) -> Subject:
    """A subject whose models come from ``make``: AdamW at ``lr``, gradients clipped to norm 1; the rest is given."""
    build = seeded(make)
    return Subject(name=name, model=build(0), build=build, optimizer=adamw(lr), clip_norm=1.0, **given)


def next_token_loss(model: nn.Module, tokens: Int[Tensor, "batch stream"]) -> Float[Tensor, ""]:
    """Cross-entropy of each token given those before it."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def last_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
    """Scores of the next token after a context, in eval mode."""
    was_training = model.training
    scores = model.eval()(tokens)[:, -1]
    model.train(was_training)
    return scores


def language_model(name: str, make: Callable[[], nn.Module], lr: float) -> Subject:
    """A healthy language model on the Markov chain, with every capability."""
    view = TokenView(
        vocab_size=VOCAB,
        tokens=lambda tokens: tokens,
        with_tokens=lambda tokens, other: other,
        logits=lambda model, tokens: model(tokens[:, :-1]),
        targets=lambda tokens: tokens[:, 1:],
        next_logits=last_logits,
    )
    return trained(
        name,
        make,
        lr,
        loss=next_token_loss,
        batches=windows(TRAIN),
        heldout=windows(HELDOUT),
        token_view=view,
        text_view=TextView(
            token_bytes=[bytes([97 + token]) for token in range(VOCAB)],
            train_tokens=TRAIN,
            heldout_tokens=HELDOUT,
            heldout_bytes=len(HELDOUT),
        ),
    )
