"""Real texts, and the tokenizers that Hugging Face and we learn from them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

import bpe

Peer = Callable[..., tokenizers.Tokenizer]
PeerMerges = Callable[[tokenizers.Tokenizer], list[tuple[int, int]]]


@pytest.fixture(scope="session")
def documentation() -> str:
    """The documentation inside every CPython, about 465 kB."""
    return "\n".join(topics.values())


@pytest.fixture(scope="session")
def shakespeare() -> str:
    repository = Path(__file__).resolve().parents[2]
    path = next(repository.parent.glob("*/data/tinyshakespeare.txt"), None)
    if path is None:
        pytest.skip("no folder beside the repository holds data/tinyshakespeare.txt")
    return path.read_text("utf-8")


@pytest.fixture(scope="session")
def documentation_tokenizer(documentation: str) -> bpe.Tokenizer:
    return bpe.train([documentation], vocab_size=8000)


@pytest.fixture(scope="session")
def peer() -> Peer:
    """Train Hugging Face's tokenizer on the same pieces."""

    def train_peer(
        texts: Sequence[str], *, vocab_size: int, split: str = "gpt4", alphabet: str = "bytes"
    ) -> tokenizers.Tokenizer:
        steps: list[pre_tokenizers.PreTokenizer] = []
        if split != "none":
            steps.append(pre_tokenizers.Split(tokenizers.Regex(bpe.split_pattern(split)), "isolated"))
        if alphabet == "bytes":
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        tokenizer = tokenizers.Tokenizer(models.BPE())
        if steps:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet == "bytes" else [],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer

    return train_peer


@pytest.fixture(scope="session")
def peer_merges() -> PeerMerges:
    """The merges of a Hugging Face tokenizer as pairs of ids."""

    def merges_of(tokenizer: tokenizers.Tokenizer) -> list[tuple[int, int]]:
        model = json.loads(tokenizer.to_str())["model"]
        return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]

    return merges_of
