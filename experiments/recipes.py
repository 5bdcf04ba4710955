"""Named runs: each recipe is a function that returns a complete configuration.

A recipe says what it differs in from the defaults; everything else is changed with `override`.
"""

from collections.abc import Callable

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
from experiments.settings import did_you_mean


def small() -> RunConfig:
    """A healthy decoder-only model that visibly learns Python's documentation in a minute on two cores."""
    return RunConfig(
        name="small",
        corpus=CorpusConfig(source="pydoc"),
        tokenizer=TokenizerConfig(vocab_size=1000),
        data=DataConfig(context=64, batch_size=16),
        model=ModelSection(d_model=96, num_heads=4, num_layers=2, d_ff=384),
        optim=OptimConfig(lr=3e-3, warmup_steps=50),
        train=TrainConfig(steps=600, eval_every=200, eval_batches=20),
    )


def stuck() -> RunConfig:
    """The seed run with all its defects, as small as it can be and still show everything (see docs/log.md).

    An encoder-decoder called as model(X, Y) on windows of ten tokens, its vocabulary learned over raw text,
    trained by AdamW at 1e-2 without warm-up or clipping. `override(stuck(), {"defects.untied_head": False})`
    repairs one defect.
    """
    return RunConfig(
        name="stuck",
        corpus=CorpusConfig(source="lanterns"),
        tokenizer=TokenizerConfig(vocab_size=3256, split="none"),
        data=DataConfig(context=10, batch_size=16, train_share=0.7),
        model=ModelSection(
            kind="stuck", d_model=64, num_heads=4, num_layers=1, d_ff=128, dropout=0.1, tie_weights=False
        ),
        defects=DefectsConfig.all(),
        optim=OptimConfig(
            lr=1e-2,
            schedule="constant",
            warmup_steps=0,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            clip_norm=None,
        ),
        train=TrainConfig(steps=150, eval_every=150, eval_batches=20),
    )


def stuck_full() -> RunConfig:
    """The seed run at its original size: 8000 raw merges, 6 + 6 layers of width 128, batches of 100 windows."""
    return override(
        stuck(),
        {
            "name": "stuck-full",
            "corpus.source": "pydoc",
            "tokenizer.vocab_size": 8256,
            "data.batch_size": 100,
            "model.d_model": 128,
            "model.num_heads": 8,
            "model.num_layers": 6,
            "model.d_ff": 512,
            "train.steps": 500,
        },
    )


def base() -> RunConfig:
    """The base model of Vaswani et al. 2017 and its training; set `corpus.pairs` to lines to translate."""
    return RunConfig(
        name="base",
        corpus=CorpusConfig(source=None),
        tokenizer=TokenizerConfig(vocab_size=37_000),
        data=DataConfig(context=256, batch_size=512, train_share=0.99),
        model=ModelSection(
            kind="seq2seq", d_model=512, num_heads=8, num_layers=6, d_ff=2048, dropout=0.1, norm="after"
        ),
        optim=OptimConfig(
            lr=1.0,
            schedule="noam",
            warmup_steps=4000,
            betas=(0.9, 0.98),
            eps=1e-9,
            weight_decay=0.0,
            clip_norm=None,
            label_smoothing=0.1,
        ),
        train=TrainConfig(steps=100_000, log_every=100, eval_every=1000, checkpoint_every=1000),
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {
    "stuck": stuck,
    "stuck-full": stuck_full,
    "small": small,
    "base": base,
}


def recipe(name: str) -> RunConfig:
    """The configuration with that name; raises ValueError for an unknown one, with the nearest known."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}{did_you_mean(name, RECIPES)}")
    return RECIPES[name]()
