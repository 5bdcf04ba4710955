"""The tokenizer: an immutable value that turns text into ids and back, and the training that makes one."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import regex

from bpe.merges import Pair, Progress, apply_merges, learn_merges
from bpe.pretokenizer import cut, split_pattern

Alphabet = Literal["bytes", "characters"]

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = bytes(_PRINTABLE + sorted(set(range(256)) - set(_PRINTABLE)))
"""The byte of each of the ids 0 to 255: printable bytes first, as in GPT-2. Ties between pairs go by these ids."""

_CACHED_PIECES = 1 << 18  # about 60 MB when full
_CACHED_LENGTH = 64  # characters; longer pieces seldom come again


@dataclass(frozen=True, kw_only=True, repr=False)
class Tokenizer:
    """A byte-pair tokenizer. `train` and `load` make one.

    Args:
        tokens: the bytes of each token; the position is the id. Ids are 0 to `vocab_size - 1` without a gap.
        merges: pairs of ids, the most frequent first. A pair makes the token that has the bytes of both.
        split: what no merge crosses: "gpt4", "gpt2", "none" or a regular expression (see `split_pattern`).
        alphabet: what a text consists of before any merge. With "bytes" every input can be encoded; with
            "characters" those whose characters are single tokens.
        special_tokens: text to id. They stand in `tokens` too, and no merge makes them.

    Raises:
        ValueError: a special token, a merge or the alphabet does not agree with `tokens`.

    Source: Sennrich et al. 2016 (merges), Radford et al. 2019, section 2.2 (bytes), tiktoken (special tokens).

    By hand: in "low low low lower" the pair (l, o) occurs four times, as does (o, w). Printable bytes have the id
    `byte - 33`: l is 75, o is 78, so (l, o) = (75, 78) is the smaller one, and becomes the token 256; then
    (lo, w) = (256, 86) occurs four times.

    >>> tokenizer = train(["low low low lower"], vocab_size=258)
    >>> tokenizer.merges
    ((75, 78), (256, 86))
    >>> tokenizer.encode("low"), tokenizer.decode([257])
    ([257], 'low')
    """

    tokens: tuple[bytes, ...]
    merges: tuple[Pair, ...]
    split: str = "gpt4"
    alphabet: Alphabet = "bytes"
    special_tokens: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "special_tokens", MappingProxyType(dict(self.special_tokens)))
        split_pattern(self.split)
        _check_special_tokens(self.special_tokens, self.tokens)
        _check_alphabet(self._base_ids, self.alphabet)
        _check_merges(self.merges, self.tokens, self._id_of)

    def __repr__(self) -> str:
        return (
            f"Tokenizer(vocab_size={self.vocab_size}, merges={len(self.merges)}, split={self.split!r}, "
            f"alphabet={self.alphabet!r}, special_tokens={dict(self.special_tokens)})"
        )

    def __reduce__(self) -> tuple[Callable[[], "Tokenizer"], tuple[()]]:
        """Copies and pickles hold what the tokenizer is made from, not what it remembers."""
        parts: dict[str, Any] = {"tokens": self.tokens, "merges": self.merges, "split": self.split}
        parts |= {"alphabet": self.alphabet, "special_tokens": dict(self.special_tokens)}
        return partial(Tokenizer, **parts), ()

    @property
    def vocab_size(self) -> int:
        """The number of tokens: alphabet, merges and special tokens."""
        return len(self.tokens)

    def encode(self, text: str, *, allowed_special: Collection[str] | Literal["all"] = ()) -> list[int]:
        """The ids of `text`.

        Args:
            text: any text that can be written as UTF-8.
            allowed_special: the special tokens that become their one id; "all" for every one. A special token
                that is not allowed is refused, so that text from outside cannot smuggle in an end of text.
                (To read one as ordinary text, use `encode_bytes`.)

        Raises:
            ValueError: the text holds a special token that is not allowed, half a surrogate pair, or a character
                outside the alphabet; or `allowed_special` names a token that is not special.
        """
        _check_surrogates(text)
        allowed = self._allowed(allowed_special)
        self._refuse_special(text, allowed)
        if not allowed:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for part in _special_pattern(allowed).split(text):
            ids += [allowed[part]] if part in allowed else self._encode_ordinary(part)
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """The ids of any bytes, valid UTF-8 or not. Special tokens are read as ordinary text.

        Raises:
            ValueError: the alphabet is "characters" and the bytes are not UTF-8, or hold a character outside it.
        """
        return self._encode_ordinary(_text_of(data, self.alphabet))

    def decode(self, ids: Iterable[int], *, errors: str = "replace") -> str:
        """The text of `ids`.

        Args:
            ids: token ids; a special token gives its text.
            errors: what to do with bytes that are no UTF-8, because a character was cut in half: "replace" puts
                U+FFFD, "strict" raises UnicodeDecodeError, and so on as in `bytes.decode`.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`: exactly what was encoded.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        try:
            return b"".join(map(self._bytes_of.__getitem__, ids))
        except KeyError as error:
            last = self.vocab_size - 1
            raise ValueError(f"token id ({error}) is not in this vocabulary; its ids are 0 to {last}") from None

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token.

        Raises:
            ValueError: the id is not in the vocabulary.
        """
        return self.decode_bytes([token_id])

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write `folder`/tokenizer.json, which Hugging Face `tokenizers` loads too; gives its path."""
        from bpe.storage import save_json  # storage builds tokenizers, so it imports this module

        return save_json(self, folder)

    def _encode_ordinary(self, text: str) -> list[int]:
        return list(chain.from_iterable(map(self._pieces.__getitem__, cut(text, self.split))))

    def _encode_piece(self, piece: str) -> list[int]:
        symbols: Iterable[int | str] = piece if self.alphabet == "characters" else _bytes_of(piece)
        try:
            ids = [self._base_ids[symbol] for symbol in symbols]
        except KeyError as error:
            raise ValueError(_unknown_character(error.args[0], len(self._base_ids))) from None
        return apply_merges(ids, self._ranks, self._products)

    def _allowed(self, names: Collection[str]) -> Mapping[str, int]:
        if names == "all":
            return self.special_tokens
        if isinstance(names, str):
            raise ValueError(f"allowed_special ({names!r}) must be 'all' or a collection such as {{{names!r}}}")
        for name in names:
            if name not in self.special_tokens:
                known = list(self.special_tokens)
                raise ValueError(f"allowed_special names {name!r}, but the special tokens are {known}")
        return {name: self.special_tokens[name] for name in names}

    def _refuse_special(self, text: str, allowed: Mapping[str, int]) -> None:
        refused = [name for name in self.special_tokens if name not in allowed and name in text]
        if refused:
            name = refused[0]
            raise ValueError(
                f"the text holds the special token {name!r} at character {text.index(name)}; pass "
                f"allowed_special={{{name!r}}} to make it one token, or use encode_bytes to read it as ordinary text"
            )

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        return dict(enumerate(self.tokens))  # a dict, because a tuple would accept negative ids

    @cached_property
    def _id_of(self) -> dict[bytes, int]:
        special = set(self.special_tokens.values())
        return {token: number for number, token in enumerate(self.tokens) if number not in special}

    @cached_property
    def _base_ids(self) -> dict[int | str, int]:
        if self.alphabet == "bytes":
            return {token[0]: number for token, number in self._id_of.items() if len(token) == 1}
        texts = ((token.decode("utf-8", "replace"), number) for token, number in self._id_of.items())
        return {text: number for text, number in texts if len(text) == 1}

    @cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _products(self) -> list[int]:
        return [self._id_of[self.tokens[left] + self.tokens[right]] for left, right in self.merges]

    @cached_property
    def _pieces(self) -> "_PieceCache":
        return _PieceCache(self._encode_piece)


class _PieceCache(dict[str, tuple[int, ...]]):
    """The ids of pieces seen before. A missing piece is encoded, and kept if it is likely to come again.

    The ids are tuples because the garbage collector does not walk tuples of numbers again and again.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode

    def __missing__(self, piece: str) -> tuple[int, ...]:
        ids = tuple(self._encode(piece))
        if len(piece) <= _CACHED_LENGTH and len(self) < _CACHED_PIECES:
            self[piece] = ids
        return ids


def train(
    texts: Iterable[str | bytes],
    *,
    vocab_size: int,
    split: str = "gpt4",
    alphabet: Alphabet = "bytes",
    special_tokens: Sequence[str] = (),
    min_count: int = 1,
    stop_early: bool = False,
    progress: Progress | None = None,
) -> Tokenizer:
    """A tokenizer whose merges are those that Hugging Face's `BpeTrainer` learns from the same pieces.

    Ids: first the alphabet (256 bytes in the order of `BYTE_ORDER`, or the characters by code point), then the
    merges by rank, then the special tokens.

    Args:
        texts: documents. Merges never cross from one into the next, nor a special token inside one.
        vocab_size: tokens in all: alphabet, merges and special tokens.
        split: "gpt4", "gpt2", "none" (each document is one piece, so merges cross words), or a regular expression.
        alphabet: "bytes" (any input can be encoded) or "characters" (those of the texts, and no others).
        special_tokens: texts that are one token each and are never learned from.
        min_count: pairs that occur fewer times are not merged.
        stop_early: when the pairs run out, give a smaller vocabulary instead of raising.
        progress: is called now and then with (merges done, merges to do).

    Raises:
        ValueError: the texts are empty; `vocab_size` is below the alphabet, or above what the texts can give; the
            split is no regular expression; a special token is empty or named twice; bytes are no UTF-8 with the
            alphabet "characters".
        TypeError: `texts` is one string.

    Source: Sennrich et al. 2016, section 3.2; see `learn_merges` for ties.
    """
    if isinstance(texts, str | bytes):
        raise TypeError("texts must be an iterable of texts, not a single one; pass [text]")
    if min_count < 1:
        raise ValueError(f"min_count ({min_count}) must be at least 1; 1 merges every pair")
    _check_names(special_tokens)
    pieces = _count_pieces(texts, split=split, alphabet=alphabet, special_tokens=special_tokens)
    base = _base_tokens(pieces, alphabet)
    limit = vocab_size - len(base) - len(special_tokens)
    if limit < 0:
        raise ValueError(_below_alphabet(vocab_size, len(base), alphabet, len(special_tokens)))
    merges = learn_merges(
        _as_ids(pieces, base, alphabet),
        first_id=len(base),
        limit=limit,
        min_count=min_count,
        progress=progress,
    )
    if len(merges) < limit and not stop_early:
        reachable = vocab_size - limit + len(merges)
        raise ValueError(
            f"vocab_size ({vocab_size}) is more than these texts give: the pairs that occur at least "
            f"{min_count} times ran out; ask for at most {reachable}, give more text, or pass stop_early=True"
        )
    tokens = _grow(base, merges) + [name.encode() for name in special_tokens]
    first_special = len(tokens) - len(special_tokens)
    return Tokenizer(
        tokens=tuple(tokens),
        merges=tuple(merges),
        split=split,
        alphabet=alphabet,
        special_tokens={name: number for number, name in enumerate(special_tokens, start=first_special)},
    )


def _count_pieces(
    texts: Iterable[str | bytes], *, split: str, alphabet: Alphabet, special_tokens: Sequence[str]
) -> Counter[str]:
    pieces: Counter[str] = Counter()
    for text in texts:
        if isinstance(text, str):
            _check_surrogates(text)
        document = text if isinstance(text, str) else _text_of(text, alphabet)
        for part in _between(special_tokens, document):
            pieces.update(cut(part, split))
    if not pieces:
        raise ValueError("texts hold nothing to learn from: there is none, or every one is empty")
    return pieces


def _between(special_tokens: Sequence[str], text: str) -> Iterator[str]:
    """The parts of `text` before, between and after the special tokens."""
    if not special_tokens:
        return iter([text])
    return islice(_special_pattern(special_tokens).splititer(text), 0, None, 2)


def _special_pattern(names: Iterable[str]) -> regex.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return regex.compile("(" + "|".join(map(regex.escape, longest_first)) + ")")


def _base_tokens(pieces: Iterable[str], alphabet: Alphabet) -> list[bytes]:
    if alphabet == "bytes":
        return [bytes([byte]) for byte in BYTE_ORDER]
    return [character.encode() for character in sorted(set().union(*pieces))]


def _as_ids(
    pieces: Mapping[str, int], base: Sequence[bytes], alphabet: Alphabet
) -> Iterator[tuple[Sequence[int], int]]:
    if alphabet == "bytes":
        id_of_byte = bytes(BYTE_ORDER.index(byte) for byte in range(256))
        return ((_bytes_of(piece).translate(id_of_byte), count) for piece, count in pieces.items())
    id_of = {token.decode(): number for number, token in enumerate(base)}
    return (([id_of[character] for character in piece], count) for piece, count in pieces.items())


def _grow(base: Sequence[bytes], merges: Iterable[Pair]) -> list[bytes]:
    tokens = list(base)
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def _text_of(data: bytes, alphabet: Alphabet) -> str:
    """`data` as text to cut; bytes that are no UTF-8 become lone surrogates, which `_bytes_of` turns back."""
    try:
        return data.decode("utf-8", "surrogateescape" if alphabet == "bytes" else "strict")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start} is not UTF-8, which the alphabet 'characters' needs; use the alphabet 'bytes'"
        ) from None


def _bytes_of(piece: str) -> bytes:
    return piece.encode("utf-8", "surrogateescape")


def _check_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(
            f"the text holds half a surrogate pair, U+{code:04X}, at character {error.start}, which UTF-8 cannot "
            "carry; read the file with another encoding, or use encode_bytes"
        ) from None


def _check_names(special_tokens: Sequence[str]) -> None:
    for name, count in Counter(special_tokens).items():
        if not name:
            raise ValueError("special_tokens must not hold the empty text")
        if count > 1:
            raise ValueError(f"special_tokens hold {name!r} twice; each needs one id")


def _check_special_tokens(special_tokens: Mapping[str, int], tokens: Sequence[bytes]) -> None:
    _check_names(list(special_tokens))
    for name, number in special_tokens.items():
        if not 0 <= number < len(tokens) or tokens[number] != name.encode():
            raise ValueError(f"special token {name!r} has the id {number}, which is not its place in tokens")
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise ValueError(f"token {twice!r} stands in the vocabulary twice; each token has one id")


def _check_alphabet(base_ids: Collection[int | str], alphabet: Alphabet) -> None:
    if alphabet == "bytes" and len(base_ids) < 256:
        missing = min(set(range(256)).difference(base_ids))
        raise ValueError(f"byte {missing:#04x} is no token; the alphabet 'bytes' needs all 256")


def _check_merges(merges: Sequence[Pair], tokens: Sequence[bytes], id_of: Mapping[bytes, int]) -> None:
    for rank, (left, right) in enumerate(merges):
        if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
            raise ValueError(f"merge {rank} is of ({left}, {right}), but ids are 0 to {len(tokens) - 1}")
        if tokens[left] + tokens[right] not in id_of:
            raise ValueError(f"merge {rank} makes {tokens[left] + tokens[right]!r}, which is no token")


def _below_alphabet(vocab_size: int, base: int, alphabet: Alphabet, special: int) -> str:
    return (
        f"vocab_size ({vocab_size}) must be at least {base + special}: "
        f"{base} {alphabet} and {special} special tokens come before the first merge"
    )


def _unknown_character(character: str, known: int) -> str:
    return (
        f"character {character!r} (U+{ord(character):04X}) is not among the {known} of this alphabet; "
        "train on text that holds it, or with alphabet='bytes'"
    )
