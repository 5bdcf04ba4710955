"""How the vocabulary is used by its own text: how often each type occurs, and what a type holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.levels import bigram, heldout_bigram, heldout_unigram, uniform, unigram
from diagnostics.probe import Probe

RARE = 10  # a type that occurs at most this often is counted as rare
LINE = 4  # a type that holds this many words is counted as a whole line
LISTED = 5


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Counts of types (distinct tokens) unless said otherwise; "seen" means seen in the training text.

    Args:
        types: size of the vocabulary.
        train_tokens / heldout_tokens: tokens in the two texts.
        unseen: types that never occur.
        rare: types that occur at most ten times, the unseen ones included.
        occurrences_per_type: training tokens divided by types.
        rarest_merge: fewest occurrences of a type of several bytes, among those that occur; 0 where there is none.
        bytes_per_token: of the training text.
        uniform / unigram / bigram: reference levels on the training text, nats per token.
        heldout_unigram / heldout_bigram: the same frequencies used on the held-out text, nats per token.
        unseen_in_heldout: share of held-out tokens whose type never occurs in training.
        spanning: types that hold two words or more, with white space between.
        spanning_tokens: share of training tokens whose type is one of those.
        lines: types that hold four words or more.
        longest: the seen types that hold the most words, as text, most words first, then the longest.
        longest_counts: how often each of those occurs.
    """

    types: int
    train_tokens: int
    heldout_tokens: int
    unseen: int
    rare: int
    occurrences_per_type: float
    rarest_merge: int
    bytes_per_token: float
    uniform: float
    unigram: float
    bigram: float
    heldout_unigram: float
    heldout_bigram: float
    unseen_in_heldout: float
    spanning: int
    spanning_tokens: float
    lines: int
    longest: tuple[str, ...]
    longest_counts: tuple[int, ...]


def words_in(text: str) -> int:
    """How many words a text holds: stretches without white space that have a letter or a digit in them."""
    return sum(any(character.isalnum() for character in piece) for piece in text.split())


def vocabulary(bench: Bench) -> Vocabulary:
    """What the subject's training and held-out text say about its vocabulary."""
    view = bench.subject.text_view
    assert view is not None
    return measure_vocabulary(view.token_bytes, view.train_tokens.cpu().long(), view.heldout_tokens.cpu().long())


def measure_vocabulary(
    token_bytes: Sequence[bytes], train: Int[Tensor, " n"], heldout: Int[Tensor, " m"]
) -> Vocabulary:
    """What two streams of ids say about the vocabulary that they are written in."""
    types = len(token_bytes)
    counts = torch.bincount(train, minlength=types)
    texts = [data.decode("utf-8", "replace") for data in token_bytes]
    words = torch.tensor([words_in(text) for text in texts])
    lengths = torch.tensor([len(data) for data in token_bytes])
    merged = counts[(lengths > 1) & (counts > 0)]
    seen = counts.nonzero().flatten().tolist()
    longest = sorted(seen, key=lambda token: (-int(words[token]), -len(texts[token]), token))[:LISTED]
    return Vocabulary(
        types=types,
        train_tokens=len(train),
        heldout_tokens=len(heldout),
        unseen=int((counts == 0).sum()),
        rare=int((counts <= RARE).sum()),
        occurrences_per_type=len(train) / types,
        rarest_merge=int(merged.min()) if len(merged) else 0,
        bytes_per_token=float((counts * lengths).sum() / len(train)),
        uniform=uniform(types).nats,
        unigram=unigram(train, types).nats,
        bigram=bigram(train, types).nats,
        heldout_unigram=heldout_unigram(train, heldout, types).nats,
        heldout_bigram=heldout_bigram(train, heldout, types).nats,
        unseen_in_heldout=float((counts[heldout] == 0).double().mean()),
        spanning=int((words > 1).sum()),
        spanning_tokens=float(counts[words > 1].sum() / len(train)),
        lines=int((words >= LINE).sum()),
        longest=tuple(texts[token] for token in longest),
        longest_counts=tuple(int(counts[token]) for token in longest),
    )


VOCABULARY = Probe(
    name="vocabulary",
    question="How often does each token type occur, and does a type hold more than a word?",
    measure=vocabulary,
    needs=("text_view",),
)
