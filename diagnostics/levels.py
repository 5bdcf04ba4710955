"""Reference levels: losses that theory names, counted on the batches' own targets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ReferenceLevel:
    """A loss that theory names.

    Args:
        name: "uniform", "unigram", ...
        nats: the level, in nats per token.
        means: what a loss that rests here means, as a phrase that completes "a loss here means that ...".
    """

    name: str
    nats: float
    means: str


def uniform(vocab_size: int) -> ReferenceLevel:
    """ln V: the loss of a model that knows nothing."""
    return ReferenceLevel(
        name="uniform", nats=math.log(vocab_size), means="nothing is learned: every token is equally likely"
    )


def double_softmax_floor(vocab_size: int) -> ReferenceLevel:
    """ln(e + V - 1) - 1: the lowest loss if probabilities are taken for logits (a one-hot row on the right token)."""
    return ReferenceLevel(
        name="double-softmax floor",
        nats=math.log(math.e + vocab_size - 1) - 1,
        means="the loss is given probabilities instead of logits, and every prediction is right",
    )


def double_softmax_ceiling(vocab_size: int) -> ReferenceLevel:
    """ln(e + V - 1): the highest such loss (a one-hot row on a wrong token)."""
    return ReferenceLevel(
        name="double-softmax ceiling",
        nats=math.log(math.e + vocab_size - 1),
        means="the loss is given probabilities instead of logits, and every one is one-hot on a wrong token",
    )


def entropy(counts: Int[Tensor, " types"]) -> float:
    """Entropy of a count table in nats."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())


def unigram(targets: Int[Tensor, " n"], vocab_size: int) -> ReferenceLevel:
    """Entropy of the token frequencies: the loss of a model that only knows how often each token occurs."""
    counts = torch.bincount(targets, minlength=vocab_size)
    return ReferenceLevel(
        name="unigram",
        nats=entropy(counts),
        means="only frequencies are learned: the input does not reach the output",
    )


def bigram(stream: Int[Tensor, "*rows n"], vocab_size: int) -> ReferenceLevel:
    """H(next | current) in sample: the loss of a model that only looks at the current token, seen on its own data.

    Args:
        stream: one stream, or windows of it as rows; pairs do not cross from one row into the next, nor a gap
            (a negative id).
        vocab_size: number of token types.
    """
    current, following = stream[..., :-1].flatten().long(), stream[..., 1:].flatten().long()
    kept = (current >= 0) & (following >= 0)
    current, following = current[kept], following[kept]
    both = entropy(torch.unique(current * vocab_size + following, return_counts=True)[1])
    return ReferenceLevel(
        name="bigram",
        nats=both - entropy(torch.bincount(current, minlength=vocab_size)),
        means="only the current token is used: attention sees nothing else",
    )


def heldout_unigram(
    train: Int[Tensor, " n"], heldout: Int[Tensor, " m"], vocab_size: int, pseudocount: float = 1.0
) -> ReferenceLevel:
    """Held-out loss of the training frequencies, each count raised by ``pseudocount`` (Laplace)."""
    counts = torch.bincount(train, minlength=vocab_size).double() + pseudocount
    nats = float(-(counts / counts.sum()).log()[heldout].mean())
    return ReferenceLevel(
        name="held-out unigram",
        nats=nats,
        means="no better on new text than the frequencies of the training text",
    )


def heldout_bigram(train: Int[Tensor, " n"], heldout: Int[Tensor, " m"], vocab_size: int) -> ReferenceLevel:
    """Held-out loss of the training pairs, smoothed towards the training frequencies.

    p(b | a) = (count(a b) + successors(a) p(b)) / (count(a) + successors(a)), where successors(a) is the number of
    different tokens seen after a: what was followed by many things may be followed by others. After a token never
    seen, p(b).

    Source: Witten and Bell 1991, method C, with the smoothed unigram of `heldout_unigram` as p(b).
    """
    train, heldout = train.long(), heldout.long()
    pairs, pair_counts = torch.unique(train[:-1] * vocab_size + train[1:], return_counts=True)
    successors = torch.bincount(pairs // vocab_size, minlength=vocab_size).double()
    followed = torch.bincount(train[:-1], minlength=vocab_size).double()
    frequency = torch.bincount(train, minlength=vocab_size).double() + 1
    before, after = heldout[:-1], heldout[1:]
    place = torch.searchsorted(pairs, before * vocab_size + after).clamp_max(len(pairs) - 1)
    seen = torch.where(pairs[place] == before * vocab_size + after, pair_counts[place], 0)
    spread = successors[before].clamp_min(1)
    chance = (seen + spread * (frequency / frequency.sum())[after]) / (followed[before] + spread)
    return ReferenceLevel(
        name="held-out bigram",
        nats=float(-chance.log().mean()),
        means="no better on new text than looking up what followed the current token in the training text",
    )


def levels_of_targets(targets: Int[Tensor, "*rows time"], vocab_size: int) -> tuple[ReferenceLevel, ...]:
    """The levels that can be counted on the targets of some batches, from high to low.

    Args:
        targets: what the loss compares with, negative where it leaves one out; a row is a stretch of consecutive
            tokens.
        vocab_size: number of token types.
    """
    levels = (
        uniform(vocab_size),
        unigram(targets[targets >= 0], vocab_size),
        bigram(targets, vocab_size),
        double_softmax_floor(vocab_size),
        double_softmax_ceiling(vocab_size),
    )
    return tuple(sorted(levels, key=lambda level: -level.nats))


def nearest(levels: Sequence[ReferenceLevel], loss: float) -> ReferenceLevel:
    """The level closest to a loss."""
    return min(levels, key=lambda level: abs(level.nats - loss))


def bits_per_byte(nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """Bits per byte of a text: the figure that compares different vocabularies (nats per token do not)."""
    return nats_per_token * tokens / (text_bytes * math.log(2))
