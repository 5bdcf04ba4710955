"""Cutting a text into the pieces inside which byte pairs may merge."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType

import regex

NAMED_SPLITS: Mapping[str, str] = MappingProxyType(
    {
        # Contractions, words with one leading sign or space, numbers of up to three digits, punctuation with the
        # line breaks behind it, line breaks, other white space. The contractions spell out both cases: under
        # (?i:...) the regular-expression engines disagree about the long s (U+017F).
        "gpt4": (
            r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        "gpt2": (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        "none": r"[\s\S]+",
    }
)
"""The splits that have a name. Every one of them covers the whole text, so that no character is lost."""


def split_pattern(split: str) -> str:
    """The regular expression behind a split: what `tiktoken.Encoding` takes as `pat_str`.

    Args:
        split: "gpt4" (words with their leading space, numbers of up to three digits, punctuation), "gpt2",
            "none" (the raw text is one piece, so merges cross words), or a regular expression, which is returned
            as it is.

    Raises:
        ValueError: the split is neither a known name nor a regular expression that compiles.

    Source: the patterns of tiktoken's `cl100k_base` and `gpt2`.
    Deviates: in "gpt4" the contractions do not match the long s. Letters and digits are those of the Unicode version
        that `regex` knows; engines with an older one split the most recently assigned of them differently.
    """
    if split in NAMED_SPLITS:
        return NAMED_SPLITS[split]
    _compiled(split)
    return split


def cut(text: str, split: str) -> list[str]:
    """The pieces of `text`, in order; joined they are `text` again.

    What a pattern does not match becomes pieces too, as in the "isolated" behaviour of Hugging Face.

    >>> cut("It's 1984!", "gpt4")
    ['It', "'s", ' ', '198', '4', '!']
    """
    if split in NAMED_SPLITS:
        return _compiled(split).findall(text)
    return _cut_with_gaps(text, _compiled(split))


def _cut_with_gaps(text: str, pattern: regex.Pattern[str]) -> list[str]:
    pieces = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]


@cache
def _compiled(split: str) -> regex.Pattern[str]:
    if split in NAMED_SPLITS:
        return regex.compile(NAMED_SPLITS[split])
    if split.isidentifier() or not split:  # a mistyped name would otherwise pass for a pattern
        raise ValueError(_unknown_name(split))
    try:
        return regex.compile(split)
    except regex.error as error:
        raise ValueError(f"split ({split!r}) is not a regular expression: {error}") from None


def _unknown_name(split: str) -> str:
    names = ", ".join(repr(name) for name in NAMED_SPLITS)
    close = get_close_matches(split, NAMED_SPLITS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"split ({split!r}) must be one of {names}, or a regular expression{hint}"
