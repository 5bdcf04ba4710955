"""How far back in the text something is said about the next token, beside how far the model sees."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diagnostics.batch_rows import plain
from diagnostics.bench import Bench
from diagnostics.levels import entropy
from diagnostics.probe import Probe

TOKENS = 60_000  # of the training text
BUCKETS = 32  # the most frequent types are told apart, the others are one
SHUFFLES = 6
REACH = 4  # contexts that are looked beyond


@dataclass(frozen=True, kw_only=True)
class ReachOfContext:
    """Mutual information of tokens at distances within and beyond the model's window, nats, in the training text.

    Args:
        context: tokens that the model sees when it predicts the last target.
        tokens: that were counted.
        within / within_at: the largest information at a distance up to the context, and that distance.
        beyond / beyond_at: the largest at a distance above it, up to four contexts.
        by_chance / chance_spread: what shuffled text gives, and its standard deviation.
    """

    context: int
    tokens: int
    within: float
    within_at: int
    beyond: float
    beyond_at: int
    by_chance: float
    chance_spread: float


def reach_of_context(bench: Bench) -> ReachOfContext:
    """Information between tokens at every distance up to four contexts.

    Raises:
        ValueError: the text is too short for its context.
    """
    view, text = bench.tokens, bench.subject.text_view
    assert text is not None
    context = view.targets(bench.batch(0)).shape[1]
    stream = bucketed(plain(text.train_tokens[:TOKENS]).long())
    if len(stream) < 10 * REACH * context:
        raise ValueError(f"the training text of {len(stream)} tokens is too short for a context of {context}")
    every = {distance: information(stream, distance) for distance in distances(context)}
    generator = torch.Generator().manual_seed(bench.seed)
    chance = torch.tensor(
        [information(stream[torch.randperm(len(stream), generator=generator)], 1) for _ in range(SHUFFLES)]
    )
    inside = max((d for d in every if d <= context), key=every.__getitem__)
    outside = max((d for d in every if d > context), key=every.__getitem__)
    return ReachOfContext(
        context=context,
        tokens=len(stream),
        within=every[inside],
        within_at=inside,
        beyond=every[outside],
        beyond_at=outside,
        by_chance=float(chance.mean()),
        chance_spread=float(chance.std()),
    )


def distances(context: int) -> list[int]:
    """All distances up to 64 and a spread of those up to four contexts, on both sides of the context."""
    last = REACH * context
    return sorted({*range(1, min(last, 64) + 1), *torch.linspace(1, last, 64).long().tolist(), context, context + 1})


def bucketed(stream: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The tokens with all but the most frequent types made one."""
    types, counts = stream.unique(return_counts=True)
    kept = types[counts.argsort(descending=True)[: BUCKETS - 1]].sort().values
    place = torch.searchsorted(kept, stream).clamp_max(len(kept) - 1)
    return torch.where(kept[place] == stream, place, len(kept))


def information(stream: Int[Tensor, " n"], distance: int) -> float:
    """Mutual information of tokens this far apart, as counted, nats."""
    pairs = torch.bincount(stream[:-distance] * BUCKETS + stream[distance:], minlength=BUCKETS**2)
    table = pairs.view(BUCKETS, BUCKETS)
    return entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(pairs)


REACH_OF_CONTEXT = Probe(
    name="reach-of-context",
    question="Is what tells the next token further back than the model sees?",
    measure=reach_of_context,
    needs=("token_view", "text_view"),
    whole_batches=True,
)
