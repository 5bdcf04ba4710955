"""From text to batches: tokenizer, token ids, and batches as pure functions of (seed, epoch).

Two forms: windows of running text for models that predict the next token, and padded pairs of lines for
translation. The tokenizer and the ids of a corpus are kept in a cache, found by the hash of what they depend on.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

import bpe
from experiments.config import RunConfig, TokenizerConfig
from experiments.corpora import Corpus, PairCorpus, read_corpus, read_pairs, split_pairs

PADDING, START, END = "<|padding|>", "<|start|>", "<|end|>"
CACHE_VERSION = 1
"""Part of every cache key; raise it when the same text and settings must give other ids."""

EPOCHS_PER_SEED = 1_000_003
"""Distance of the seeds' random streams: a prime above any number of epochs."""

SORTED_BATCHES = 50
"""Pairs of so many batches are sorted by length together, which keeps padding short and the order random."""

Progress = Callable[[int, int], None]
EncodedPair = tuple[list[int], list[int]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Running text, ready for windows: what was read, its tokenizer, and the ids of both parts."""

    corpus: Corpus
    tokenizer: bpe.Tokenizer
    train: Int[Tensor, "train_tokens"]
    held_out: Int[Tensor, "held_out_tokens"]


@dataclass(frozen=True, kw_only=True)
class PreparedPairs:
    """Lines and translations, ready for batches; `left_out` counts pairs longer than the context."""

    corpus: PairCorpus
    tokenizer: bpe.Tokenizer
    train: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    left_out: int


@dataclass(frozen=True)
class PairBatch:
    """Padded pairs. `target` has a start token before the line and an end token after it."""

    source: Int[Tensor, "batch source_len"]
    target: Int[Tensor, "batch target_len"]
    source_is_padding: Bool[Tensor, "batch source_len"]
    target_is_padding: Bool[Tensor, "batch target_len"]


def prepare(config: RunConfig, *, progress: Progress | None = None) -> Prepared | PreparedPairs:
    """The data of a run: its text, its tokenizer and its token ids, from the cache where they are known.

    Args:
        config: names the text, the tokenizer and the context.
        progress: is called with (merges done, merges wanted) while a tokenizer is trained.
    Raises:
        ValueError: text that is missing, unreadable or shorter than one window, no pairs for a seq2seq model.
    """
    if config.model.kind == "seq2seq":
        return _prepare_pairs(config, progress)
    assert config.corpus.source is not None  # RunConfig refuses it
    corpus = read_corpus(config.corpus.source, train_share=config.data.train_share)
    tokenizer, (train, held_out) = _tokenized(
        config.tokenizer,
        texts=(corpus.train, corpus.held_out),
        learn_from=(corpus.train,) if config.tokenizer.learn_from == "train" else (corpus.train + corpus.held_out,),
        special_tokens=(),
        progress=progress,
    )
    _refuse_too_short("training", train, config)
    _refuse_too_short("held-out", held_out, config)
    return Prepared(corpus=corpus, tokenizer=tokenizer, train=torch.tensor(train), held_out=torch.tensor(held_out))


def _prepare_pairs(config: RunConfig, progress: Progress | None) -> PreparedPairs:
    if config.corpus.pairs is None:
        raise ValueError(
            "corpus.pairs is None; model.kind 'seq2seq' learns from pairs of lines: name one .tsv file or two "
            "aligned text files"
        )
    corpus = split_pairs(read_pairs(config.corpus.pairs), train_share=config.data.train_share)
    lines = [line for pair in (*corpus.train, *corpus.held_out) for line in pair]
    train_lines = 2 * len(corpus.train)
    tokenizer, ids = _tokenized(
        config.tokenizer,
        texts=lines,
        learn_from=lines[:train_lines] if config.tokenizer.learn_from == "train" else lines,
        special_tokens=(PADDING, START, END),
        progress=progress,
    )
    pairs = list(zip(ids[::2], ids[1::2], strict=True))
    fits = [max(len(source), len(target)) <= config.data.context for source, target in pairs]
    train = tuple(pair for pair, fit in zip(pairs[: train_lines // 2], fits, strict=False) if fit)
    held_out = tuple(pair for pair, fit in zip(pairs[train_lines // 2 :], fits[train_lines // 2 :], strict=True) if fit)
    if not train or not held_out:
        raise ValueError(f"no pair fits into data.context ({config.data.context} tokens); use a larger one")
    left_out = fits.count(False)
    return PreparedPairs(corpus=corpus, tokenizer=tokenizer, train=train, held_out=held_out, left_out=left_out)


def windows_per_epoch(num_tokens: int, *, context: int) -> int:
    """How many windows an epoch has: one less than fit, so that each epoch can start elsewhere in the text."""
    return max(1, (num_tokens - 1) // context - 1)


def training_windows(
    ids: Int[Tensor, "tokens"], *, context: int, batch_size: int, seed: int, epoch: int
) -> Iterator[Int[Tensor, "batch time_plus_1"]]:
    """One pass over the text: windows side by side from a random offset, in random order, in full batches.

    Args:
        ids: the text.
        context: length of a window less one, in tokens; the last token is only ever a target.
        batch_size: windows per batch.
        seed: with `epoch`, decides offset and order, and nothing else does.
        epoch: number of the pass.
    Raises:
        ValueError: fewer windows than one batch needs.
    """
    count = windows_per_epoch(len(ids), context=context)
    if count < batch_size:
        raise ValueError(
            f"batch_size ({batch_size}) must be at most {count}, the windows of {context} tokens in the training "
            "text; lower data.batch_size or data.context, or use a longer text"
        )
    generator = _generator(seed, epoch)
    slack = len(ids) - 1 - count * context
    offset = int(torch.randint(slack + 1, (), generator=generator))
    starts = offset + context * torch.randperm(count, generator=generator)
    every = ids.unfold(0, context + 1, 1)
    return (every[chosen] for chosen in starts.split(batch_size) if len(chosen) == batch_size)


def held_out_windows(
    ids: Int[Tensor, "tokens"], *, context: int, batch_size: int
) -> Iterator[Int[Tensor, "batch time_plus_1"]]:
    """All windows of the text, side by side and in order; the last batch may be smaller."""
    every = ids.unfold(0, context + 1, context)
    return iter(every.split(batch_size))


def training_pairs(
    pairs: Sequence[EncodedPair], *, batch_size: int, seed: int, epoch: int, tokenizer: bpe.Tokenizer
) -> Iterator[PairBatch]:
    """One pass over the pairs in random order, neighbours of like length together, in full batches.

    Args:
        pairs: token ids of lines and translations.
        batch_size: pairs per batch.
        seed: with `epoch`, decides the order, and nothing else does.
        epoch: number of the pass.
        tokenizer: knows the ids of padding, start and end.
    Raises:
        ValueError: fewer pairs than one batch needs.
    """
    if len(pairs) < batch_size:
        raise ValueError(
            f"batch_size ({batch_size}) must be at most {len(pairs)}, the number of training pairs; lower it"
        )
    generator = _generator(seed, epoch)
    shuffled = torch.randperm(len(pairs), generator=generator).tolist()
    chunk = batch_size * SORTED_BATCHES
    chunks = [shuffled[start : start + chunk] for start in range(0, len(shuffled), chunk)]
    order = [index for part in chunks for index in sorted(part, key=lambda index: len(pairs[index][1]))]
    batches = [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]
    turns = torch.randperm(len(batches), generator=generator).tolist()
    return (pair_batch([pairs[index] for index in batches[turn]], tokenizer) for turn in turns)


def held_out_pairs(pairs: Sequence[EncodedPair], *, batch_size: int, tokenizer: bpe.Tokenizer) -> Iterator[PairBatch]:
    """All pairs in order; the last batch may be smaller."""
    starts = range(0, len(pairs), batch_size)
    return (pair_batch(pairs[start : start + batch_size], tokenizer) for start in starts)


def pair_batch(pairs: Sequence[EncodedPair], tokenizer: bpe.Tokenizer) -> PairBatch:
    """Pairs as one batch, each side padded to its longest line."""
    start, end = special_id(tokenizer, START), special_id(tokenizer, END)
    source, source_is_padding = _padded([line for line, _ in pairs], special_id(tokenizer, PADDING))
    framed = [[start, *line, end] for _, line in pairs]
    target, target_is_padding = _padded(framed, special_id(tokenizer, PADDING))
    return PairBatch(source, target, source_is_padding, target_is_padding)


def special_id(tokenizer: bpe.Tokenizer, name: str) -> int:
    """The id of a special token such as `PADDING`."""
    return tokenizer.special_tokens[name]


def bytes_per_token(tokenizer: bpe.Tokenizer) -> Int[Tensor, "vocab"]:
    """How many UTF-8 bytes of text each token stands for; special tokens stand for none."""
    special = set(tokenizer.special_tokens.values())
    lengths = [0 if i in special else len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    return torch.tensor(lengths)


def cache_folder() -> Path:
    """Where tokenizers and token ids are kept between runs: `$XDG_CACHE_HOME/unplateau`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unplateau"


def _tokenized(
    config: TokenizerConfig,
    *,
    texts: Sequence[str],
    learn_from: Sequence[str],
    special_tokens: tuple[str, ...],
    progress: Progress | None,
) -> tuple[bpe.Tokenizer, list[list[int]]]:
    """A tokenizer learned from some texts, and the ids of `texts`; from the cache where both are known."""
    settings = {**asdict(config), "special_tokens": special_tokens, "version": CACHE_VERSION}
    folder = cache_folder() / _digest([json.dumps(settings, sort_keys=True), *texts, "", *learn_from])
    known = _read_cache(folder)
    if known is not None:
        return known
    tokenizer = bpe.train(
        learn_from,
        vocab_size=config.vocab_size,
        split=config.split,
        alphabet=config.alphabet,
        special_tokens=special_tokens,
        progress=progress,
    )
    ids = [tokenizer.encode(text) for text in texts]
    _write_cache(folder, tokenizer, ids)
    return tokenizer, ids


def _digest(parts: Iterable[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        total.update(len(encoded).to_bytes(8, "big") + encoded)
    return total.hexdigest()[:32]


def _read_cache(folder: Path) -> tuple[bpe.Tokenizer, list[list[int]]] | None:
    """What the cache knows; None if that is nothing, or damaged."""
    try:
        ids = json.loads((folder / "ids.json").read_text())
        return bpe.load(folder / "tokenizer"), ids
    except (OSError, ValueError):
        return None


def _write_cache(folder: Path, tokenizer: bpe.Tokenizer, ids: list[list[int]]) -> None:
    """Keep a result; a cache that cannot be written costs time, not the run."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            whole = Path(unfinished) / "whole"
            tokenizer.save(whole / "tokenizer")
            (whole / "ids.json").write_text(json.dumps(ids))
            os.replace(whole, folder)
    except OSError:
        return


def _refuse_too_short(part: str, ids: list[int], config: RunConfig) -> None:
    needed = config.data.context + 1
    if len(ids) < needed:
        raise ValueError(
            f"the {part} text has {len(ids)} tokens, too short for one window of data.context + 1 ({needed}); "
            "use a longer text, a smaller context or another data.train_share"
        )


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * EPOCHS_PER_SEED + epoch)


def _padded(
    lines: Sequence[Sequence[int]], padding: int
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    longest = max(len(line) for line in lines)
    ids = torch.tensor([[*line, *[padding] * (longest - len(line))] for line in lines])
    lengths = torch.tensor([len(line) for line in lines])
    return ids, torch.arange(longest) >= lengths[:, None]
