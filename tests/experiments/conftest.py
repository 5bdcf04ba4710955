"""A text and a configuration small enough to train in a blink."""

from pathlib import Path

import pytest

from experiments.config import (
    CorpusConfig,
    DataConfig,
    DefectsConfig,
    ModelSection,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
    TrainConfig,
    override,
)

WORDS = ("lamp", "quay", "tide", "boat", "rope", "gull", "salt", "fog", "bell", "pier", "oar")
DEFECTS = DefectsConfig.all().present()


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """About 8 kB of sentences that are not all the same."""
    lines = [
        f"The {WORDS[i % 11]} and the {WORDS[i * i % 11]} saw {i % 7} {WORDS[(3 * i + 1) % 11]}s.\n" for i in range(251)
    ]
    path = tmp_path / "harbour.txt"
    path.write_text("".join(lines))
    return path


@pytest.fixture
def tiny(text_file: Path) -> RunConfig:
    """A language model of a few thousand weights."""
    return RunConfig(
        name="tiny",
        seed=7,
        corpus=CorpusConfig(source=str(text_file)),
        tokenizer=TokenizerConfig(vocab_size=293),
        data=DataConfig(context=11, batch_size=5, train_share=0.8),
        model=ModelSection(d_model=12, num_heads=3, num_layers=2, d_ff=23, dropout=0.1),
        optim=OptimConfig(lr=3e-3, warmup_steps=3, schedule="constant"),
        train=TrainConfig(steps=20, log_every=1, eval_every=7, eval_batches=3, sample_tokens=0),
    )


@pytest.fixture
def tiny_stuck(tiny: RunConfig) -> RunConfig:
    """The seed run at the size of a test, with all its defects."""
    changes = {"model.kind": "stuck", "model.tie_weights": False, "data.context": 5, "optim.lr": 1e-2}
    return override(tiny, {"name": "tiny-stuck", **changes, **{f"defects.{name}": True for name in DEFECTS}})


@pytest.fixture
def tiny_pairs(tiny: RunConfig, tmp_path: Path) -> RunConfig:
    """Lines to copy, as a translation."""
    path = tmp_path / "pairs.tsv"
    lines = [" ".join(WORDS[(i * j) % 11] for j in range(1, 2 + i % 4)) for i in range(61)]
    path.write_text("".join(f"{line}\t{line}\n" for line in lines))
    changes = {"model.kind": "seq2seq", "corpus.source": None, "corpus.pairs": (str(path),)}
    return override(tiny, {"name": "tiny-pairs", **changes, "tokenizer.vocab_size": 281, "data.context": 17})
