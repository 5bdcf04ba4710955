"""`unplateau show`: what a vocabulary looks like on a text."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import TokenizerArgument, console, heading, stored_tokenizer, tell, text_of, width

if TYPE_CHECKING:
    from rich.table import Table

    from bpe import TokenCount, Tokenizer, VocabularyReport

MEASURED_ON = "lanterns"


def show(
    path: TokenizerArgument,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Text to measure on, best the one it was learned from: files, folders, lanterns or pydoc. Without it, "
            "tokens.txt beside the tokenizer, otherwise lanterns.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="Tokens to list as longest and as rarest.", min=1)] = 10,
) -> None:
    """Show what a vocabulary looks like on a text.

    Its longest and rarest tokens, bytes per token, and the signs of merges that went too far.
    """
    from bpe import vocabulary_report

    tokenizer = stored_tokenizer(path)
    where, ids = measured_ids(tokenizer, path, texts)
    report = vocabulary_report(tokenizer, ids, top=top)
    tell("measured on", where)
    console().print(signs_table(report))
    list_tokens("longest tokens", report.longest)
    list_tokens("rarest tokens that occur", report.rarest)
    if report.whole_lines:
        list_tokens("whole lines that are one token", report.whole_lines[:top])
    tell("next", next_step(report))


def measured_ids(tokenizer: "Tokenizer", path: Path, texts: Sequence[str] | None) -> tuple[str, list[int]]:
    """What a vocabulary is measured on: its name, and its ids."""
    if not texts and (path / "tokens.txt").is_file():
        from bpe import read_token_ids

        return str(path / "tokens.txt"), read_token_ids(path)
    named = list(texts or [MEASURED_ON])
    ids = [token for text in text_of(named) for token in tokenizer.encode_bytes(text.encode())]
    return ", ".join(named), ids


def signs(report: "VocabularyReport") -> Iterable[tuple[str, str, str]]:
    """Each sign as its name, its figure and what it means."""
    from bpe.vocabulary import RARE

    size, lines = report.vocab_size, len(report.whole_lines)
    last = "none" if report.last_merge_count is None else f"{report.last_merge_count:,}"
    per_type = f"{report.tokens / size:,.0f} tokens of text for each type, on average."
    return (
        ("tokens in the text", f"{report.tokens:,}", "What a model has to learn from."),
        ("vocabulary", f"{size:,}", per_type),
        ("bytes per token", f"{report.bytes_per_token:.2f}", "More: shorter sequences, tokens that hold more."),
        ("last merge seen", last, "How often the token of the last merge occurs; a handful is chance."),
        ("tokens across words", f"{report.word_spanning:,}", "Phrases that are one symbol; 0 under a word split."),
        ("whole lines", f"{lines:,}", "Lines that are one symbol: a random sample holds them word for word."),
        ("never used", share(report.unused, size), "Rows of the embedding that this text never trains."),
        (f"at most {RARE} times", share(report.rare, size), "Too seldom to be learned; most: too large a vocabulary."),
    )


def share(count: int, whole: int) -> str:
    """A count and its share.

    >>> share(30, 120)
    '30 (25 %)'
    """
    return f"{count:,} ({100 * count / whole:.0f} %)"


def signs_table(report: "VocabularyReport") -> "Table":
    """The signs, a row each."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("sign", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("what it means")
    for row in signs(report):
        table.add_row(*row)
    return table


def list_tokens(title: str, tokens: Sequence["TokenCount"]) -> None:
    """Tokens with their ids and counts, a line each; white space is written as in Python."""
    heading(title)
    typer.echo(f"{'id':>7}{'count':>8}  token")
    for token in tokens:
        typer.echo(f"{token.token_id:>7}{token.count:>8,}  {shortened(repr(token.text), width() - 17)}")
    typer.echo()


def shortened(text: str, longest: int) -> str:
    """The beginning of a text, and how long it is where that is not all.

    >>> shortened("a lantern in the window", 18)
    'a lan... (23 long)'
    """
    if len(text) <= longest:
        return text
    end = f"... ({len(text)} long)"
    return text[: max(0, longest - len(end))] + end


def next_step(report: "VocabularyReport") -> str:
    """What the signs suggest."""
    if report.word_spanning:
        return "unplateau explain whole-sentences-as-tokens"
    if 2 * report.rare > report.vocab_size:
        return "unplateau explain vocabulary-too-large"
    return "unplateau train --recipe small --set corpus.source=PATH"
