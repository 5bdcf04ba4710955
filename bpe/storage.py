"""Tokenizers on disk: `tokenizer.json`, the three files, and tiktoken's rank file.

| format | written by | holds |
|---|---|---|
| `tokenizer.json` | `Tokenizer.save` | everything; Hugging Face `tokenizers` reads it too |
| `base.json`, `vocab.json`, `tokens.txt` | `save_three_files` | characters, merges, and one encoded text |
| tiktoken's rank file | `save_rank_file` | bytes and merges; neither the split nor the special tokens |
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from bpe.merges import Pair, apply_merges
from bpe.pretokenizer import NAMED_SPLITS
from bpe.tokenizer import BYTE_ORDER, Alphabet, Tokenizer

AnyPath = str | PathLike[str]
Json = Mapping[str, Any]
Kind = TypeVar("Kind")

_JSON_NAME, _BASE_NAME, _VOCAB_NAME, _TOKENS_NAME = "tokenizer.json", "base.json", "vocab.json", "tokens.txt"

# Byte-level files write each byte as one visible character: itself if it is printable, else from U+0100 on.
_CHARACTER_OF = {byte: chr(byte) for byte in BYTE_ORDER[:188]}
_CHARACTER_OF |= {byte: chr(0x100 + place) for place, byte in enumerate(BYTE_ORDER[188:])}
_BYTE_OF = {character: byte for byte, character in _CHARACTER_OF.items()}

# What may stand in a `tokenizer.json` beside vocabulary and merges without changing any id.
_NEUTRAL_MODEL = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def load(path: AnyPath) -> Tokenizer:
    """The tokenizer stored at `path`.

    Args:
        path: a folder that holds `tokenizer.json`, or `base.json` and `vocab.json`; a `tokenizer.json`; or a
            tiktoken rank file (read with the split "gpt4" and no special tokens; see `load_rank_file`).

    Raises:
        ValueError: there is nothing to load, or it is damaged, or it does something that this package does not
            (another model than BPE, a normalizer ...). The message starts with the path.
    """
    path = Path(path)
    if path.is_dir():
        if (path / _JSON_NAME).exists():
            return load(path / _JSON_NAME)
        if (path / _BASE_NAME).exists():
            return _load_three_files(path)
        raise ValueError(f"{path} holds no tokenizer: neither {_JSON_NAME} nor {_BASE_NAME} and {_VOCAB_NAME}")
    if path.suffix != ".json" and not _read(path).lstrip().startswith("{"):
        return load_rank_file(path)
    try:
        return _from_json(_read_json(path))
    except ValueError as error:
        raise _at(path, error) from None


def save_json(tokenizer: Tokenizer, folder: AnyPath) -> Path:
    """Write `folder`/tokenizer.json (the folder is made if need be); gives its path.

    Raises:
        ValueError: a special token has the very characters in which the format writes some bytes, such as "Ġ".
    """
    text = json.dumps(_to_json(tokenizer), ensure_ascii=False, indent=1)
    return _write(Path(folder) / _JSON_NAME, text)


def save_three_files(tokenizer: Tokenizer, folder: AnyPath, ids: Iterable[int]) -> Path:
    """Write `base.json` (id to code point), `vocab.json` (id to pair of ids) and `tokens.txt` (`ids`); gives `folder`.

    Args:
        tokenizer: one with the alphabet "characters", the split "none" and no special tokens: the format holds
            no more than that.
        folder: is made if need be.
        ids: the encoded training text, written with commas between.

    Raises:
        ValueError: the format cannot hold this tokenizer.
    """
    folder = Path(folder)
    if (tokenizer.alphabet, tokenizer.split, len(tokenizer.special_tokens)) != ("characters", "none", 0):
        raise ValueError(
            f"the three files hold alphabet='characters', split='none' and no special tokens only, not {tokenizer!r}; "
            "use Tokenizer.save"
        )
    pairs = {tokenizer.tokens.index(_product(tokenizer, pair)): pair for pair in tokenizer.merges}
    texts = {number: token.decode() for number, token in enumerate(tokenizer.tokens) if number not in pairs}
    _write(folder / _BASE_NAME, json.dumps({number: ord(text) for number, text in texts.items()}))
    _write(folder / _VOCAB_NAME, json.dumps(pairs))
    _write(folder / _TOKENS_NAME, ",".join(map(str, ids)))
    return folder


def read_token_ids(path: AnyPath) -> list[int]:
    """The ids in a `tokens.txt`, or in the one of a folder.

    Raises:
        ValueError: the file is missing, or holds something other than ids with commas between.
    """
    path = Path(path)
    path = path / _TOKENS_NAME if path.is_dir() else path
    text = _read(path).strip()
    try:
        return [int(number) for number in text.split(",")] if text else []
    except ValueError as error:
        raise ValueError(f"{path} must hold ids with commas between: {error}") from None


def save_rank_file(tokenizer: Tokenizer, path: AnyPath) -> Path:
    """Write tiktoken's rank file: a line of base64 bytes and rank per token, without special tokens; gives `path`.

    `tiktoken.Encoding(name, pat_str=split_pattern(tokenizer.split), mergeable_ranks=load_tiktoken_bpe(path),
    special_tokens=dict(tokenizer.special_tokens))` then gives the same ids: it merges the pair whose bytes have the
    lowest rank, which is our order as long as each merge makes a new id, one after the other.

    Raises:
        ValueError: the alphabet is "characters", or the ids do not follow the order of the merges.
    """
    if tokenizer.alphabet != "bytes":
        raise ValueError(f"a rank file needs alphabet='bytes', not {tokenizer.alphabet!r}; use Tokenizer.save")
    ordinary = tokenizer.tokens[: 256 + len(tokenizer.merges)]
    if any(len(token) != 1 for token in ordinary[:256]) or ordinary[256:] != tuple(
        _product(tokenizer, pair) for pair in tokenizer.merges
    ):
        raise ValueError(
            "a rank file needs ids in the order bytes, merges, special tokens; this tokenizer has another order"
        )
    lines = (f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ordinary))
    return _write(Path(path), "".join(lines))


def load_rank_file(path: AnyPath, *, split: str = "gpt4", special_tokens: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a tiktoken rank file.

    A rank file names the tokens, not the pairs they are made of; the pair is found by encoding each token with the
    merges before it.

    Args:
        path: the file.
        split: what the file does not say; see `split_pattern`.
        special_tokens: what the file does not say; they get the ids after the last rank.

    Raises:
        ValueError: the file is missing or damaged, ranks are not 0 to n - 1, or a token is not made of two others.
    """
    path = Path(path)
    try:
        tokens = _in_order(_read_ranks(_read(path)))
        merges = _recovered_merges(tokens)
        names = {name: number for number, name in enumerate(special_tokens, start=len(tokens))}
        tokens += [name.encode() for name in special_tokens]
        return Tokenizer(tokens=tuple(tokens), merges=tuple(merges), split=split, special_tokens=names)
    except ValueError as error:
        raise _at(path, error) from None


# tokenizer.json


def _to_json(tokenizer: Tokenizer) -> Json:
    special = {number: name for name, number in tokenizer.special_tokens.items()}
    texts = [
        special.get(number) or _visible(token, tokenizer.alphabet) for number, token in enumerate(tokenizer.tokens)
    ]
    if len(set(texts)) < len(texts):
        twice = next(text for text, count in Counter(texts).items() if count > 1)
        raise ValueError(f"special token {twice!r} is also how {_JSON_NAME} writes other bytes; choose another text")
    by_bytes = tokenizer.alphabet == "bytes"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": name, **_ADDED} for number, name in sorted(special.items())],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer),
        "post_processor": None,
        "decoder": _BYTE_LEVEL if by_bytes else {"type": "Fuse"},
        "model": {
            "type": "BPE",
            **_NEUTRAL_MODEL,
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": [[texts[left], texts[right]] for left, right in tokenizer.merges],
        },
    }


def _pre_tokenizer(tokenizer: Tokenizer) -> Json | None:
    steps: list[Json] = []
    if tokenizer.split != "none":
        pattern = NAMED_SPLITS.get(tokenizer.split, tokenizer.split)
        steps.append({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    if tokenizer.alphabet == "bytes":
        steps.append(_BYTE_LEVEL)
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _from_json(stored: Json) -> Tokenizer:
    model = _entry(stored, "model", dict)
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"it holds a {model['type']} model; only BPE can be read")
    _refuse_deviations(stored, model)
    split, alphabet = _split_and_alphabet(_optional(stored, "pre_tokenizer", dict))
    added = _optional(stored, "added_tokens", list) or []
    special = {_entry(token, "content", str): _entry(token, "id", int) for token in added}
    vocab = _entry(model, "vocab", dict)
    ordinary = [(_entry(vocab, text, int), _hidden(text, alphabet)) for text in vocab if text not in special]
    tokens = _in_order([*ordinary, *((number, name.encode()) for name, number in special.items())])
    merges = [_id_pair(merge, vocab) for merge in _entry(model, "merges", list)]
    return Tokenizer(tokens=tuple(tokens), merges=tuple(merges), split=split, alphabet=alphabet, special_tokens=special)


def _refuse_deviations(stored: Json, model: Json) -> None:
    if stored.get("normalizer") is not None:
        raise ValueError("it has a normalizer, which would change the text; only files without one can be read")
    processor = _optional(stored, "post_processor", dict)
    if processor is not None and processor.get("type") != "ByteLevel":  # ByteLevel moves offsets, not ids
        raise ValueError(f"it has the post-processor {processor.get('type')!r}, which adds ids of its own")
    for name, neutral in _NEUTRAL_MODEL.items():
        value = model.get(name)
        if value and value != neutral:
            raise ValueError(f"its model sets {name} to {value!r}, which changes ids; only {neutral!r} can be read")


def _split_and_alphabet(stored: Json | None) -> tuple[str, Alphabet]:
    """What a pre-tokenizer says. A ByteLevel step may bring GPT-2's split along."""
    steps = [] if stored is None else _optional(stored, "pretokenizers", list) or [stored]
    split = "none"
    alphabet: Alphabet = "characters"
    for step in steps:
        kind = _entry(step, "type", str)
        splits = kind == "Split" or (kind == "ByteLevel" and step.get("use_regex", True))
        if alphabet == "bytes" or (splits and split != "none"):  # a split of bytes, or a second one
            raise ValueError(f"its pre-tokenizer has the step {json.dumps(step)} where this package knows none")
        if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            split = _split_name(_entry(step, "pattern", dict))
        elif kind == "ByteLevel" and not step.get("add_prefix_space", True):
            alphabet = "bytes"
            split = "gpt2" if splits else split
        else:
            raise ValueError(f"its pre-tokenizer has the step {json.dumps(step)}, which this package does not know")
    return split, alphabet


def _split_name(pattern: Json) -> str:
    expression = _entry(pattern, "Regex", str)
    return next((name for name, known in NAMED_SPLITS.items() if known == expression), expression)


def _id_pair(merge: Any, vocab: Json) -> Pair:
    parts = merge.split(" ") if isinstance(merge, str) else merge  # older files write "a b"
    if not _are_two(parts, str) or any(part not in vocab for part in parts):
        raise ValueError(f"the merge {merge!r} is not of two tokens of its vocabulary")
    return vocab[parts[0]], vocab[parts[1]]


def _visible(token: bytes, alphabet: Alphabet) -> str:
    if alphabet == "characters":
        return token.decode()
    return "".join(_CHARACTER_OF[byte] for byte in token)


def _hidden(text: str, alphabet: Alphabet) -> bytes:
    if alphabet == "characters":
        return text.encode()
    try:
        return bytes(_BYTE_OF[character] for character in text)
    except KeyError:
        raise ValueError(f"token {text!r} is not written in the characters that stand for bytes") from None


# The three files


def _load_three_files(folder: Path) -> Tokenizer:
    base = {_number(key, folder): point for key, point in _read_json(folder / _BASE_NAME).items()}
    pairs = {_number(key, folder): pair for key, pair in _read_json(folder / _VOCAB_NAME).items()}
    try:
        tokens = {number: _character(point) for number, point in base.items()}
        for number, pair in sorted(pairs.items()):
            tokens[number] = b"".join(_part(tokens, number, pair))
        merges = tuple((left, right) for _, (left, right) in sorted(pairs.items()))
        return Tokenizer(tokens=tuple(_in_order(tokens.items())), merges=merges, split="none", alphabet="characters")
    except ValueError as error:
        raise _at(folder, error) from None


def _number(key: str, folder: Path) -> int:
    try:
        return int(key)
    except ValueError:
        raise ValueError(f"{folder}: the keys of {_BASE_NAME} and {_VOCAB_NAME} must be ids, not {key!r}") from None


def _character(point: Any) -> bytes:
    if not isinstance(point, int) or not 0 <= point < 0x110000 or 0xD800 <= point < 0xE000:
        raise ValueError(f"{point!r} in {_BASE_NAME} is no code point of a character")
    return chr(point).encode()


def _part(tokens: Mapping[int, bytes], number: int, pair: Any) -> list[bytes]:
    if not _are_two(pair, int) or any(part not in tokens for part in pair) or number in tokens:
        raise ValueError(f"{_VOCAB_NAME} makes token {number} of {pair!r}, which is no pair of tokens before it")
    return [tokens[part] for part in pair]


# The rank file


def _read_ranks(text: str) -> list[tuple[int, bytes]]:
    ranks = []
    for place, line in enumerate(text.splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks.append((int(rank), b64decode(token, validate=True)))
        except (ValueError, Base64Error):
            raise ValueError(f"line {place} is not base64 and a rank: {line[:60]!r}") from None
    return ranks


def _recovered_merges(tokens: Sequence[bytes]) -> list[Pair]:
    id_of = {token[0]: number for number, token in enumerate(tokens) if len(token) == 1}
    if len(id_of) < 256:
        raise ValueError(f"it has {len(id_of)} of the 256 single bytes")
    ranks: dict[Pair, int] = {}
    products: list[int] = []
    for number, token in enumerate(tokens):
        if len(token) == 1:
            continue
        parts = apply_merges([id_of[byte] for byte in token], ranks, products)
        if len(parts) != 2:
            raise ValueError(f"token {number} ({token!r}) is not made of two tokens of lower rank")
        ranks[parts[0], parts[1]] = len(products)
        products.append(number)
    return list(ranks)


# Shared by all formats


def _product(tokenizer: Tokenizer, pair: Pair) -> bytes:
    return tokenizer.tokens[pair[0]] + tokenizer.tokens[pair[1]]


def _in_order(numbered: Iterable[tuple[int, bytes]]) -> list[bytes]:
    """The tokens by id."""
    pairs = sorted(numbered)
    if [number for number, _ in pairs] != list(range(len(pairs))):
        raise ValueError(f"its {len(pairs)} tokens do not have the ids 0 to {len(pairs) - 1}, each once")
    return [token for _, token in pairs]


def _entry(stored: Any, key: str, kind: type[Kind]) -> Kind:
    if not isinstance(stored, dict) or key not in stored:
        raise ValueError(f"{key!r} is missing")
    value = stored[key]
    if type(value) is not kind:  # JSON's true is no id, though Python's True is an int
        raise ValueError(f"{key!r} must be of type {kind.__name__}, not {type(value).__name__}")
    return value


def _optional(stored: Json, key: str, kind: type[Kind]) -> Kind | None:
    return None if stored.get(key) is None else _entry(stored, key, kind)


def _are_two(parts: Any, kind: type) -> bool:
    return isinstance(parts, list) and [type(part) for part in parts] == [kind, kind]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no tokenizer: it is not a text file in UTF-8") from None


def _read_json(path: Path) -> Json:
    try:
        stored = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{path} must hold a JSON object, not {type(stored).__name__}")
    return stored


def _write(path: Path, text: str) -> Path:
    """Write beside the target first, so that a full disk leaves the file of before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, "utf-8", newline="\n")
    return unfinished.replace(path)


def _at(path: Path, error: ValueError) -> ValueError:
    """`error` with the path in front, once."""
    text = str(error)
    return error if text.startswith(str(path)) else ValueError(f"{path}: {text}")
