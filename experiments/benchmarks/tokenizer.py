"""Our tokenizer against Hugging Face's: training, encoding and decoding the same text, in turns.

    python -m experiments.benchmarks.tokenizer --rounds 5 --vocab-size 8000 --out tokenizer.json

Both work on the same pieces with one thread, and must agree on merges and ids before a time counts. Times are
CPU-seconds, because a busy machine stretches the clock; the two take turns (ours, theirs, ours, theirs ...), because
a warm machine favours whoever comes last. "cold" is the first text after loading, "warm" the same text again.
"""

import gc
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Annotated, Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}  # read when tokenizers is imported

import tokenizers
import typer
from tokenizers import models, pre_tokenizers, trainers

import bpe

Task = Callable[[], object]
Contest = dict[str, tuple[Task, Task]]  # what is measured -> ours, theirs


def benchmark(
    path: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="UTF-8 text. Default: Python's documentation"),
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens in all.")] = 8000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side is measured.")] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file to write. Default: standard output")] = None,
) -> None:
    """Measure our tokenizer and Hugging Face's in turns; the figures are JSON."""
    text = path.read_text("utf-8") if path else "\n".join(topics.values())
    ours, theirs = bpe.train([text], vocab_size=vocab_size), train_theirs(text, vocab_size)
    assert_equal(ours, theirs, text)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        results = {name: in_turns(pair, rounds) for name, pair in contests(text, vocab_size, Path(folder)).items()}
    megabytes = len(text.encode()) / 1e6
    report = json.dumps(
        {"text": path.name if path else "pydoc", "megabytes": megabytes, "vocab_size": vocab_size, "rounds": rounds}
        | {"python": platform.python_version(), "tokenizers": tokenizers.__version__}
        | {name: figures(name, seconds, megabytes) for name, seconds in results.items()},
        indent=1,
    )
    if out:
        out.write_text(report + "\n", "utf-8")
    else:
        print(report)


def train_theirs(text: str, vocab_size: int) -> tokenizers.Tokenizer:
    """Hugging Face's tokenizer, trained on the pieces that ours is trained on."""
    split = pre_tokenizers.Split(tokenizers.Regex(bpe.split_pattern("gpt4")), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def assert_equal(ours: bpe.Tokenizer, theirs: tokenizers.Tokenizer, text: str) -> None:
    """A faster wrong answer is no result."""
    model = json.loads(theirs.to_str())["model"]
    assert list(ours.merges) == [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]
    assert ours.encode(text) == theirs.encode(text).ids


def contests(text: str, vocab_size: int, folder: Path) -> Contest:
    """What is measured. Cold tasks load the tokenizer each time; loading is not in `warm` and `decode`."""
    file = str(folder / "tokenizer.json")
    ours, theirs = bpe.load(folder), tokenizers.Tokenizer.from_file(file)
    ids = ours.encode(text)
    theirs.encode(text)
    return {
        "train": (lambda: bpe.train([text], vocab_size=vocab_size), lambda: train_theirs(text, vocab_size)),
        "load": (lambda: bpe.load(folder), lambda: tokenizers.Tokenizer.from_file(file)),
        "load_and_encode_cold": (
            lambda: bpe.load(folder).encode(text),
            lambda: tokenizers.Tokenizer.from_file(file).encode(text).ids,
        ),
        "encode_warm": (lambda: ours.encode(text), lambda: theirs.encode(text).ids),
        "decode": (lambda: ours.decode(ids), lambda: theirs.decode(ids)),
    }


def in_turns(pair: tuple[Task, Task], rounds: int) -> tuple[list[float], list[float]]:
    """CPU-seconds of each task, measured A B A B ..."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for task, list_of_seconds in zip(pair, seconds, strict=True):
            gc.collect()
            start = time.process_time()
            task()
            list_of_seconds.append(time.process_time() - start)
    return seconds


def figures(name: str, seconds: tuple[list[float], list[float]], megabytes: float) -> dict[str, Any]:
    """Median and spread of both sides, and how many times as fast ours is."""
    ours, theirs = map(median, seconds)
    sides = {
        side: {"median_s": round(median(times), 4), "min_s": round(min(times), 4), "max_s": round(max(times), 4)}
        | ({} if name == "load" else {"megabytes_per_s": round(megabytes / median(times), 2)})
        for side, times in zip(("ours", "hugging_face"), seconds, strict=True)
    }
    return {**sides, "times_as_fast": round(theirs / ours, 2)}


if __name__ == "__main__":
    typer.run(benchmark)
