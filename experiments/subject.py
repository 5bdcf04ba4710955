"""The one bridge from a run to a subject: a configuration (and its record) as something that can be diagnosed."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain, count
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.subject import LossHistory, Subject, TextView, TokenView
from experiments.checkpoint import read_checkpoint
from experiments.config import DefectsConfig, OptimConfig, RunConfig, TrackConfig, TrainConfig, override
from experiments.data import Prepared, PreparedPairs, prepare
from experiments.record import RunRecord
from experiments.schedule import schedule
from experiments.stuck import StuckModel, generation_logits
from experiments.tasks import AnyTask, NextToken, StuckNextToken, Translation, task
from experiments.training import optimizer_of, total_steps

HELDOUT_WINDOWS = 1024  # spread evenly over the held-out text: the honest loss is that of their last tokens
HELDOUT_BATCH = 256
KEPT_TENSORS = 3  # losses that are replayed to see what the training loop keeps of them

Changes = Mapping[str, Any]

REPAIRS: Mapping[str, Callable[[RunConfig], Changes]] = {
    "learning-rate-too-high": lambda config: {"optim.lr": min(config.optim.lr, 3e-3)},
    "no-warm-up": lambda config: {"optim.warmup_steps": max(config.optim.warmup_steps, 40)},
    "no-gradient-clipping": lambda config: {"optim.clip_norm": config.optim.clip_norm or 1.0},
    "untied-head": lambda config: (
        {"defects.untied_head": False} if config.model.kind == "stuck" else {"model.tie_weights": True}
    ),
    "vocabulary-too-large": lambda config: {"tokenizer.vocab_size": min(config.tokenizer.vocab_size, 1000)},
    "whole-sentences-as-tokens": lambda config: {
        "tokenizer.split": "gpt4" if config.tokenizer.split == "none" else config.tokenizer.split,
        "tokenizer.vocab_size": min(config.tokenizer.vocab_size, 2000),
    },
}
"""Fault -> the settings that remove it from a run. The defects of the stuck run are switches by their own names."""


def repaired_config(config: RunConfig, faults: frozenset[str]) -> RunConfig:
    """The configuration with the settings that remove these faults."""
    for fault in sorted(faults):
        config = override(config, _repair(config, fault))
    return config


def _repair(config: RunConfig, fault: str) -> Changes:
    """What to override so that one fault is gone."""
    return REPAIRS[fault](config) if fault in REPAIRS else {f"defects.{fault.replace('-', '_')}": False}


def switches(config: RunConfig) -> frozenset[str]:
    """The faults that this run's own settings can remove."""
    defects = {name.replace("_", "-") for name in config.defects.present()}
    return frozenset(fault for fault in defects | set(REPAIRS) if override(config, _repair(config, fault)) != config)


def subject_of(config: RunConfig, record: RunRecord | None = None, *, name: str | None = None) -> Subject:
    """A run as a subject, with every capability that its kind of model has.

    Args:
        config: the run.
        record: what the run left; gives the model as it stands and the loss history. None: a run that has not begun.
        name: what reports call it; None: the configuration's name.
    Raises:
        ValueError: the data cannot be read, or the checkpoint does not fit the configuration.
    """
    data = prepared(config)
    asked = task(config, data)
    model = asked.build(config.seed)
    if record is not None:
        _load_weights(model, record)
    subject = Subject(
        name=name or config.name,
        model=model,
        build=asked.build,
        loss=lambda model, batch: (
            asked.loss_sum(model, batch, label_smoothing=config.optim.label_smoothing) / asked.count(batch)
        ),
        batches=partial(_passes, asked),
        heldout=lambda seed: iter(asked.held_out()),
        optimizer=partial(optimizer_of, config),
        schedule=schedule(config, total_steps=total_steps(config, asked)),
        clip_norm=config.optim.clip_norm,
        switches=switches(config),
        repair=lambda faults: subject_of(repaired_config(config, faults), name=name or config.name),
    )
    if not isinstance(asked, Translation) and isinstance(data, Prepared):
        subject = replace(
            subject,
            token_view=_token_view(asked),
            text_view=_text_view(data),
            heldout=lambda seed: _spread_windows(data.held_out, config.data.context),
        )
    return subject if record is None else replace(subject, history=_history(subject, config, record))


def _load_weights(model: nn.Module, record: RunRecord) -> None:
    weights = read_checkpoint(record.checkpoint_path)["model"]
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{record.checkpoint_path} does not fit the configuration; use the one beside it, or train anew"
        ) from error


def prepared(config: RunConfig) -> Prepared | PreparedPairs:
    """The data of a run, prepared once per process for each text, tokenizer and context."""
    return _prepare_once(
        replace(
            config,
            name="data",
            seed=0,
            defects=DefectsConfig(),
            optim=OptimConfig(),
            train=TrainConfig(),
            track=TrackConfig(),
        )
    )


_prepare_once = lru_cache(maxsize=8)(prepare)  # a search may try many vocabularies; the disk keeps them all


def _passes(asked: AnyTask, seed: int) -> Iterator[Any]:
    """One endless pass: epoch after epoch, decided by the seed."""
    return chain.from_iterable(asked.batches(seed, epoch) for epoch in count())


def _spread_windows(ids: Int[Tensor, " tokens"], context: int) -> Iterator[Int[Tensor, "batch time_plus_1"]]:
    """Up to HELDOUT_WINDOWS windows, spread evenly over the text: always the same ones."""
    every = ids.unfold(0, context + 1, 1)
    return iter(every[:: math.ceil(len(every) / HELDOUT_WINDOWS)].split(HELDOUT_BATCH))


def _token_view(asked: NextToken) -> TokenView:
    return TokenView(
        vocab_size=asked.tokenizer.vocab_size,
        tokens=lambda batch: batch,
        with_tokens=lambda batch, tokens: tokens,
        logits=asked.logits,
        targets=asked.targets,
        next_logits=_stuck_logits if isinstance(asked, StuckNextToken) else _last_logits,
    )


def _stuck_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
    """Scores for the next token, as the stuck run computes them when it writes."""
    assert isinstance(model, StuckModel)
    return generation_logits(model, tokens)


@torch.no_grad()
def _last_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
    """Scores for the next token, as ``transformer.generate`` computes them: evaluation mode, last position."""
    was_training = model.training
    scores = model.eval()(tokens)[:, -1]
    model.train(was_training)
    return scores


def _text_view(data: Prepared) -> TextView:
    return TextView(
        token_bytes=[data.tokenizer.token_bytes(token) for token in range(data.tokenizer.vocab_size)],
        train_tokens=data.train,
        heldout_tokens=data.held_out,
        heldout_bytes=len(data.corpus.held_out.encode()),
    )


def _history(subject: Subject, config: RunConfig, record: RunRecord) -> LossHistory:
    """The record's training losses; the last ones as the training loop keeps them in memory, made anew."""
    logged: list[float | Tensor] = [row["train/loss"] for row in record.rows() if "train/loss" in row]
    if config.defects.history_keeps_the_graph and len(logged) > KEPT_TENSORS:
        with open_bench(subject, config.seed) as bench:
            model = bench.standing_model()
            logged[-KEPT_TENSORS:] = [bench.loss(model, bench.batch(index)) for index in range(KEPT_TENSORS)]
    return LossHistory(losses=tuple(logged))
