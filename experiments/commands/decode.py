"""`unplateau decode`: the text of token ids."""

import sys
from typing import Annotated

import typer

from experiments.commands.console import TokenizerArgument, hint, stored_tokenizer


def decode(
    path: TokenizerArgument,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...", help="Token ids, with spaces or commas between; without them, what comes in."
        ),
    ] = None,
) -> None:
    """Write the text of token ids.

    What comes out are exactly the bytes that were encoded.
    """
    tokenizer = stored_tokenizer(path)
    text = " ".join(ids) if ids else sys.stdin.read()
    sys.stdout.buffer.write(tokenizer.decode_bytes(token_ids(text)))
    sys.stdout.flush()
    if sys.stdout.isatty():
        typer.echo()
    hint(f"unplateau show {path}")


def token_ids(text: str) -> list[int]:
    """The numbers in a text, with spaces, line ends or commas between.

    >>> token_ids("3, 5 7")
    [3, 5, 7]
    """
    words = text.replace(",", " ").split()
    wrong = next((word for word in words if not word.removeprefix("-").isdecimal()), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} is no token id; ids are whole numbers with spaces or commas between")
    return [int(word) for word in words]
