"""What a vocabulary looks like on a text: the signs of merges that went too far."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import regex

from bpe.tokenizer import Tokenizer

RARE = 10
"""A type that occurs at most this often counts as rare: a model hardly learns what it sees ten times."""

_CROSSES_WORDS = regex.compile(r"\S\s+\S")


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """One type of token: its id, its text (broken UTF-8 replaced) and how often it occurs."""

    token_id: int
    text: str
    count: int


@dataclass(frozen=True, kw_only=True)
class VocabularyReport:
    """How a vocabulary is used by a text. Counts are of types (distinct tokens) unless said otherwise.

    Args:
        vocab_size: types in the vocabulary.
        tokens: tokens in the text.
        bytes_per_token: bytes of text per token; more means shorter sequences.
        longest: the longest types of the vocabulary, longest first.
        rarest: the rarest types that the text uses, rarest first.
        word_spanning: types with white space between two words or signs; none under a split into words.
        whole_lines: types that hold a whole line of the text with more than one word, the most frequent first:
            such a line is memorised as a single symbol.
        unused: types that the text never uses.
        rare: types that occur at most `RARE` times, unused ones included.
        last_merge_count: how often the token of the last merge occurs; None without merges. On the training text
            that is what the last merge was learned from.
    """

    vocab_size: int
    tokens: int
    bytes_per_token: float
    longest: tuple[TokenCount, ...]
    rarest: tuple[TokenCount, ...]
    word_spanning: int
    whole_lines: tuple[TokenCount, ...]
    unused: int
    rare: int
    last_merge_count: int | None


def vocabulary_report(tokenizer: Tokenizer, ids: Sequence[int], *, top: int = 20) -> VocabularyReport:
    """How `tokenizer`'s vocabulary is used by an encoded text.

    Args:
        tokenizer: whose vocabulary it is.
        ids: the encoded text; best the training text, for then the counts are those that a model learns from.
        top: how many types to list as longest and as rarest.

    Raises:
        ValueError: there are no ids, or one is not in the vocabulary.

    >>> from bpe import train
    >>> tokenizer = train(["to be or not to be"], vocab_size=260, split="none")
    >>> report = vocabulary_report(tokenizer, tokenizer.encode("to be or not to be"))
    >>> report.longest[0].text, report.longest[0].count, report.last_merge_count
    ('to be', 2, 2)
    """
    if not ids:
        raise ValueError("ids are empty; a report needs a text")
    data = tokenizer.decode_bytes(ids)
    counts = Counter(ids)
    types = [_count(tokenizer, number, counts[number]) for number in range(tokenizer.vocab_size)]
    used = [kind for kind in types if kind.count]
    return VocabularyReport(
        vocab_size=tokenizer.vocab_size,
        tokens=len(ids),
        bytes_per_token=len(data) / len(ids),
        longest=tuple(sorted(types, key=lambda kind: len(kind.text), reverse=True)[:top]),
        rarest=tuple(sorted(used, key=lambda kind: kind.count)[:top]),
        word_spanning=sum(_CROSSES_WORDS.search(kind.text) is not None for kind in types),
        whole_lines=_whole_lines(used, data.decode("utf-8", "replace")),
        unused=len(types) - len(used),
        rare=sum(kind.count <= RARE for kind in types),
        last_merge_count=_last_merge_count(tokenizer, counts),
    )


def _count(tokenizer: Tokenizer, token_id: int, count: int) -> TokenCount:
    return TokenCount(token_id=token_id, text=tokenizer.decode([token_id]), count=count)


def _whole_lines(used: Sequence[TokenCount], text: str) -> tuple[TokenCount, ...]:
    lines = {line.strip() for line in text.splitlines() if _CROSSES_WORDS.search(line)}
    whole = [kind for kind in used if any(line.strip() in lines for line in kind.text.splitlines())]
    return tuple(sorted(whole, key=lambda kind: kind.count, reverse=True))


def _last_merge_count(tokenizer: Tokenizer, counts: Counter[int]) -> int | None:
    if not tokenizer.merges:
        return None
    left, right = tokenizer.merges[-1]
    return counts[tokenizer.tokens.index(tokenizer.tokens[left] + tokenizer.tokens[right])]
