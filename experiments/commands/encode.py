"""`unplateau encode`: token ids of a text."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import TokenizerArgument, hint, stored_tokenizer

if TYPE_CHECKING:
    from bpe import Tokenizer


def encode(
    path: TokenizerArgument,
    text: Annotated[str | None, typer.Argument(help="The text; without it, what comes in.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")] = None,
    allow_special: Annotated[
        bool, typer.Option("--allow-special", help="Let special tokens in the text become their one id.")
    ] = False,
) -> None:
    """Print the token ids of a text on one line.

    The text comes from the command line, from --file or from the standard input; any bytes can be encoded with a
    byte-level tokenizer.
    """
    if text is not None and file is not None:
        raise ValueError("a text and --file exclude each other; give one of them")
    tokenizer = stored_tokenizer(path)
    data = given_bytes(text, file)
    typer.echo(" ".join(map(str, ids_of(tokenizer, data, allow_special=allow_special))))
    hint(f"unplateau decode {path} <ids>")


def given_bytes(text: str | None, file: Path | None) -> bytes:
    """The text's bytes, from wherever it comes."""
    if text is not None:
        return os.fsencode(text)
    return sys.stdin.buffer.read() if file is None else file.read_bytes()


def ids_of(tokenizer: "Tokenizer", data: bytes, *, allow_special: bool) -> list[int]:
    """The ids of UTF-8 text, or of any other bytes; raises ValueError for a special token that is not allowed."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return tokenizer.encode_bytes(data)
    found = next((name for name in tokenizer.special_tokens if name in text), None)
    if found is not None and not allow_special:
        raise ValueError(f"the text holds the special token {found!r}; add --allow-special to make it one token")
    return tokenizer.encode(text, allowed_special="all" if allow_special else ())
