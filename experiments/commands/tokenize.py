"""`unplateau tokenize`: learn a tokenizer from text."""

import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import OutOption, progress_bar, results_folder, tell, text_of

if TYPE_CHECKING:
    from bpe import Tokenizer


class Alphabet(StrEnum):
    """What the first tokens are."""

    bytes = "bytes"
    characters = "characters"


class Format(StrEnum):
    """A way to store a tokenizer."""

    tokenizer_json = "tokenizer-json"
    three_files = "three-files"
    tiktoken = "tiktoken"


def tokenize(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files or folders (.txt .srt .vtt .ass), or lanterns or pydoc."),
    ],
    vocab_size: Annotated[int, typer.Option(help="Size of the vocabulary, in token types.", min=2)] = 8000,
    out: OutOption = None,
    split: Annotated[
        str, typer.Option(help="What merges may not cross: gpt4, gpt2, none (raw text) or a regular expression.")
    ] = "gpt4",
    alphabet: Annotated[Alphabet, typer.Option(help="What the first tokens are.")] = Alphabet.bytes,
    special: Annotated[
        list[str] | None, typer.Option("--special-token", help="A text that is one token; repeatable.")
    ] = None,
    formats: Annotated[
        list[Format] | None,
        typer.Option("--format", help="How to store it; repeatable.  [default: tokenizer-json]", show_default=False),
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Take fewer tokens where the text gives no more.")
    ] = False,
) -> None:
    """Learn a byte-pair tokenizer from text.

    The merges are those that Hugging Face's trainer learns from the same text. tokenizer-json is read by Hugging
    Face tokenizers, tiktoken by tiktoken; three-files (base.json, vocab.json, tokens.txt) needs --alphabet
    characters --split none.
    """
    import bpe

    wanted = formats or [Format.tokenizer_json]
    refuse_unfit(wanted, alphabet=alphabet, split=split, special=special or [])
    texts = text_of(paths)
    folder = results_folder(out, "tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with progress_bar("learning merges") as advance:
        tokenizer = bpe.train(
            texts,
            vocab_size=vocab_size,
            split=split,
            alphabet=alphabet.value,
            special_tokens=special or [],
            stop_early=stop_early,
            progress=advance,
        )
    seconds = time.perf_counter() - start
    ids = [token for text in texts for token in tokenizer.encode(text, allowed_special="all")]
    summary(tokenizer, texts, ids, seconds)
    for name in wanted:
        tell("written", store(tokenizer, name, folder, ids))
    tell("next", f"unplateau show {folder} {' '.join(paths)}")


def refuse_unfit(formats: Sequence[Format], *, alphabet: Alphabet, split: str, special: Sequence[str]) -> None:
    """Say before the work begins what a format cannot hold."""
    if Format.three_files in formats and (alphabet, split, len(special)) != (Alphabet.characters, "none", 0):
        raise ValueError(
            "--format three-files holds raw merges of characters only; add --alphabet characters --split none, and "
            "leave out --special-token"
        )
    if Format.tiktoken in formats and alphabet is not Alphabet.bytes:
        raise ValueError("--format tiktoken holds bytes only; use --alphabet bytes or another --format")


def summary(tokenizer: "Tokenizer", texts: Sequence[str], ids: Sequence[int], seconds: float) -> None:
    """What was read and what it became."""
    num_bytes = sum(len(text.encode()) for text in texts)
    tell("text", f"{num_bytes:,} bytes in {len(texts)} {'document' if len(texts) == 1 else 'documents'}")
    tell("vocabulary", f"{tokenizer.vocab_size:,} tokens, {len(tokenizer.merges):,} of them merges")
    tell("encoded", f"{len(ids):,} tokens, {num_bytes / len(ids):.2f} bytes per token")
    tell("learned in", f"{seconds:.1f} seconds")


def store(tokenizer: "Tokenizer", name: Format, folder: Path, ids: Sequence[int]) -> str:
    """Write one format; gives the names of what was written."""
    import bpe

    if name is Format.three_files:
        return f"{bpe.save_three_files(tokenizer, folder, ids)}: base.json, vocab.json, tokens.txt"
    if name is Format.tiktoken:
        return str(bpe.save_rank_file(tokenizer, folder / "ranks.tiktoken"))
    return str(tokenizer.save(folder))
