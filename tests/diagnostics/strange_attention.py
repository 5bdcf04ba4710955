"""Strangers' attentions: a small model in which the weights are written as the test likes, in two people's styles."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.subject import Subject
from tests import subjects

Weigh = Callable[[Tensor], Tensor]
"""Scores (batch, heads, query, key), divided by sqrt(d_k) -> weights."""


def causal(scores: Float[Tensor, "... query key"]) -> Float[Tensor, "... query key"]:
    """What a careful person writes."""
    ahead = torch.triu(torch.ones(scores.shape[-2:]), diagonal=1) == 1
    return scores.masked_fill(ahead, float("-inf")).softmax(-1)


class HandLM(nn.Module):
    """A decoder-only language model with attention written out by hand, its weights by ``weigh``."""

    def __init__(self, weigh: Weigh, einsum: bool = False) -> None:
        super().__init__()
        self.weigh, self.einsum, self.heads = weigh, einsum, 3
        width = 3 * 7
        self.embedding = nn.Embedding(subjects.VOCAB, width)
        self.positions = nn.Parameter(torch.randn(subjects.CONTEXT, width) * 0.1)
        self.maps = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(4)) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, subjects.VOCAB)

    def attend(self, x: Float[Tensor, "batch time width"], maps: nn.ModuleList) -> Float[Tensor, "batch time width"]:
        batch, time, width = x.shape
        if self.einsum:
            q, k, v = (m(x).reshape(batch, time, self.heads, -1) for m in list(maps)[:3])
            weights = self.weigh(torch.einsum("nqhd,nkhd->nhqk", q, k) / (width // self.heads) ** 0.5)
            return maps[3](torch.einsum("nhql,nlhd->nqhd", weights, v).reshape(batch, time, width))
        q, k, v = (m(x).view(batch, time, self.heads, -1).transpose(1, 2) for m in list(maps)[:3])
        weights = self.weigh(torch.matmul(q, k.transpose(-2, -1)) / (width // self.heads) ** 0.5)
        return maps[3]((weights @ v).transpose(1, 2).contiguous().view(batch, time, width))

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for maps in self.maps:
            assert isinstance(maps, nn.ModuleList)
            x = x + self.attend(self.norm(x), maps)
        return self.head(self.norm(x))


def hand_written(weigh: Weigh, einsum: bool = False) -> Subject:
    """A stranger's language model whose attention weights are computed by ``weigh``."""
    return language_model(lambda: HandLM(weigh, einsum))


def language_model(make: Callable[[], nn.Module]) -> Subject:
    """A language model on the Markov chain of the healthy subjects."""
    return replace(subjects.language_model("stranger", make, lr=3e-3), name="stranger")
