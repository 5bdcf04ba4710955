"""What each kind of model is asked: its batches, its logits, its targets and its sample of text.

A task is the one place that knows how a kind of model is called. Training, evaluation and diagnosis work on any of
them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

import bpe
from experiments.config import RunConfig
from experiments.data import (
    END,
    START,
    PairBatch,
    Prepared,
    PreparedPairs,
    bytes_per_token,
    held_out_pairs,
    held_out_windows,
    pair_batch,
    prepare,
    special_id,
    training_pairs,
    training_windows,
    windows_per_epoch,
)
from experiments.stuck import StuckModel, generation_logits
from transformer.config import ModelConfig
from transformer.generation import beam_search, generate
from transformer.language_model import LanguageModel
from transformer.seq2seq import Seq2Seq

IGNORED = -100
"""Stands in targets where nothing is asked; torch's cross-entropy leaves it out."""

Batch = TypeVar("Batch")


class Task(ABC, Generic[Batch]):
    """How one kind of model meets its data.

    Args:
        config: the run.
        data: from `experiments.data.prepare`.
    """

    steps_per_epoch: int

    def __init__(self, config: RunConfig, tokenizer: bpe.Tokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.bytes_per_token = bytes_per_token(tokenizer)

    def build(self, seed: int) -> nn.Module:
        """A freshly initialised model on the CPU; the seed decides its weights, the caller's random state stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build()

    @abstractmethod
    def batches(self, seed: int, epoch: int) -> Iterator[Batch]:
        """One pass over the training data, decided by seed and epoch alone."""

    @abstractmethod
    def held_out(self) -> Iterator[Batch]:
        """All held-out batches, always in the same order."""

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        """What the model answers, called as in training."""

    @abstractmethod
    def targets(self, batch: Batch) -> Int[Tensor, "batch time"]:
        """The right answers, `IGNORED` where nothing is asked."""

    @abstractmethod
    def parts(self, batch: Batch, count: int) -> list[Batch]:
        """The batch cut into `count` smaller ones."""

    @abstractmethod
    def to(self, batch: Batch, device: torch.device) -> Batch:
        """The batch on another device."""

    @abstractmethod
    def sample(self, model: nn.Module, *, num_tokens: int, generator: torch.Generator) -> str:
        """Text that the model writes, and what it was given to go on."""

    @abstractmethod
    def _build(self) -> nn.Module: ...

    def loss_sum(self, model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
        """Cross-entropy in nats, summed over the batch's targets.

        Args:
            model: in whatever mode the caller put it.
            batch: one of this task's.
            label_smoothing: share of the target's probability that is spread evenly over the vocabulary.

        Source: smoothing as in Szegedy et al. 2016, section 7, and Vaswani et al. 2017, section 5.4.
        """
        logits, targets = self.logits(model, batch), self.targets(batch)
        return F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
            reduction="sum",
        )

    def count(self, batch: Batch) -> int:
        """Number of targets in a batch, in tokens."""
        return int((self.targets(batch) != IGNORED).sum())

    def count_bytes(self, batch: Batch) -> int:
        """Length of the text that a batch's targets stand for, in UTF-8 bytes."""
        targets = self.targets(batch).cpu()
        return int(self.bytes_per_token[targets[targets != IGNORED]].sum())


class NextToken(Task[Tensor]):
    """Windows of running text for a decoder-only model: at each position, which token comes next?"""

    def __init__(self, config: RunConfig, data: Prepared) -> None:
        super().__init__(config, data.tokenizer)
        self.data = data
        windows = windows_per_epoch(len(data.train), context=config.data.context)
        self.steps_per_epoch = windows // config.data.batch_size

    def batches(self, seed: int, epoch: int) -> Iterator[Int[Tensor, "batch time_plus_1"]]:
        size = self.config.data
        return training_windows(
            self.data.train, context=size.context, batch_size=size.batch_size, seed=seed, epoch=epoch
        )

    def held_out(self) -> Iterator[Int[Tensor, "batch time_plus_1"]]:
        size = self.config.data
        return held_out_windows(self.data.held_out, context=size.context, batch_size=size.batch_size)

    def logits(self, model: nn.Module, batch: Int[Tensor, "batch time_plus_1"]) -> Float[Tensor, "batch time vocab"]:
        return model(batch[:, :-1])

    def targets(self, batch: Int[Tensor, "batch time_plus_1"]) -> Int[Tensor, "batch time"]:
        return batch[:, 1:]

    def parts(self, batch: Int[Tensor, "batch time_plus_1"], count: int) -> list[Tensor]:
        return list(batch.chunk(count))

    def to(self, batch: Int[Tensor, "batch time_plus_1"], device: torch.device) -> Int[Tensor, "batch time_plus_1"]:
        return batch.to(device)

    def sample(self, model: nn.Module, *, num_tokens: int, generator: torch.Generator) -> str:
        prompt = self._prompt(model)
        return self.tokenizer.decode(self.continued(model, prompt, num_tokens, generator)[0].tolist())

    def continued(
        self, model: nn.Module, prompt: Int[Tensor, "batch time"], num_tokens: int, generator: torch.Generator
    ) -> Int[Tensor, "batch longer_time"]:
        """The prompt and `num_tokens` more; a text that outgrows the context goes on from its later half."""
        assert isinstance(model, LanguageModel)
        context, tokens = self.config.data.context, prompt
        while (missing := prompt.shape[1] + num_tokens - tokens.shape[1]) > 0:
            seen = tokens[:, -max(1, context // 2) :]
            room = max(1, context - seen.shape[1])
            longer = generate(model, seen, max_new_tokens=min(missing, room), generator=generator)
            tokens = torch.cat([tokens, longer[:, seen.shape[1] :]], dim=1)
        return tokens

    def _prompt(self, model: nn.Module) -> Int[Tensor, "1 time"]:
        """The beginning of the held-out text, half a context of it."""
        length = max(1, self.config.data.context // 2)
        return self.data.held_out[None, :length].to(next(model.parameters()).device)

    def _build(self) -> nn.Module:
        return LanguageModel(_model_config(self.config, self.tokenizer, max_len=self.config.data.context))


class StuckNextToken(NextToken):
    """The seed run: the same windows, but the model is called as model(X, Y) and its output compared with Y."""

    def logits(self, model: nn.Module, batch: Int[Tensor, "batch time_plus_1"]) -> Float[Tensor, "batch time vocab"]:
        return model(batch[:, :-1], batch[:, 1:])

    def continued(
        self, model: nn.Module, prompt: Int[Tensor, "batch time"], num_tokens: int, generator: torch.Generator
    ) -> Int[Tensor, "batch longer_time"]:
        assert isinstance(model, StuckModel)
        tokens = prompt
        for _ in range(num_tokens):
            chances = generation_logits(model, tokens).softmax(dim=-1)
            tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
        return tokens

    def _prompt(self, model: nn.Module) -> Int[Tensor, "1 time"]:
        """One whole context: the run's prompt was no shorter, and the norm over time loses a short one."""
        return self.data.held_out[None, : self.config.data.context].to(next(model.parameters()).device)

    def _build(self) -> nn.Module:
        model = self.config.model
        return StuckModel(
            vocab_size=self.tokenizer.vocab_size,
            d_model=model.d_model,
            num_heads=model.num_heads,
            num_layers=model.num_layers,
            d_ff=model.d_ff,
            context=self.config.data.context,
            dropout=model.dropout,
            defects=self.config.defects,
        )


class Translation(Task[PairBatch]):
    """Padded pairs for an encoder-decoder: given the source and the target so far, which token comes next?"""

    def __init__(self, config: RunConfig, data: PreparedPairs) -> None:
        super().__init__(config, data.tokenizer)
        self.data = data
        self.steps_per_epoch = len(data.train) // config.data.batch_size

    def batches(self, seed: int, epoch: int) -> Iterator[PairBatch]:
        size = self.config.data.batch_size
        return training_pairs(self.data.train, batch_size=size, seed=seed, epoch=epoch, tokenizer=self.tokenizer)

    def held_out(self) -> Iterator[PairBatch]:
        return held_out_pairs(self.data.held_out, batch_size=self.config.data.batch_size, tokenizer=self.tokenizer)

    def logits(self, model: nn.Module, batch: PairBatch) -> Float[Tensor, "batch time vocab"]:
        return model(batch.source, batch.target[:, :-1], batch.source_is_padding, batch.target_is_padding[:, :-1])

    def targets(self, batch: PairBatch) -> Int[Tensor, "batch time"]:
        return batch.target[:, 1:].masked_fill(batch.target_is_padding[:, 1:], IGNORED)

    def parts(self, batch: PairBatch, count: int) -> list[PairBatch]:
        columns = (each.chunk(count) for each in _tensors(batch))
        return [PairBatch(*part) for part in zip(*columns, strict=True)]

    def to(self, batch: PairBatch, device: torch.device) -> PairBatch:
        return PairBatch(*(each.to(device) for each in _tensors(batch)))

    def sample(self, model: nn.Module, *, num_tokens: int, generator: torch.Generator) -> str:
        source, reference = self.corpus_lines(1)[0]
        written = self.translated(model, [source], max_new_tokens=num_tokens)[0]
        return f"{source}\n-> {written}\n(reference: {reference})"

    def corpus_lines(self, count: int) -> list[tuple[str, str]]:
        """The first held-out pairs that fit the context, as text."""
        decode = self.tokenizer.decode
        return [(decode(source), decode(target)) for source, target in self.data.held_out[:count]]

    def translated(self, model: nn.Module, lines: list[str], *, max_new_tokens: int, beam_size: int = 4) -> list[str]:
        """The best translation of each line that a beam search finds.

        Args:
            model: an encoder-decoder of this run.
            lines: source text.
            max_new_tokens: longest translation, in tokens.
            beam_size: unfinished translations kept per line; the paper uses 4.
        """
        assert isinstance(model, Seq2Seq)
        device = next(model.parameters()).device
        batch = self.to(pair_batch([(self.tokenizer.encode(line), []) for line in lines], self.tokenizer), device)
        found = beam_search(
            model,
            torch.full((len(lines), 1), special_id(self.tokenizer, START), device=device),
            max_new_tokens=min(max_new_tokens, self.config.data.context),
            beam_size=beam_size,
            eos=special_id(self.tokenizer, END),
            source=batch.source,
            source_is_padding=batch.source_is_padding,
        )
        return [self._text(hypotheses[0].tokens) for hypotheses in found]

    def _text(self, tokens: tuple[int, ...]) -> str:
        special = set(self.tokenizer.special_tokens.values())
        return self.tokenizer.decode([token for token in tokens if token not in special])

    def _build(self) -> nn.Module:
        longest = self.config.data.context + 2  # start and end token
        return Seq2Seq(_model_config(self.config, self.tokenizer, max_len=longest))


AnyTask = NextToken | StuckNextToken | Translation


def task(config: RunConfig, data: Prepared | PreparedPairs | None = None) -> AnyTask:
    """The task of a run.

    Args:
        config: its `model.kind` decides.
        data: what `prepare(config)` gave; None prepares it now.
    """
    data = prepare(config) if data is None else data
    if isinstance(data, PreparedPairs):
        return Translation(config, data)
    return StuckNextToken(config, data) if config.model.kind == "stuck" else NextToken(config, data)


def _tensors(batch: PairBatch) -> tuple[Tensor, ...]:
    return batch.source, batch.target, batch.source_is_padding, batch.target_is_padding


def _model_config(config: RunConfig, tokenizer: bpe.Tokenizer, *, max_len: int) -> ModelConfig:
    model = config.model
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=model.d_model,
        num_heads=model.num_heads,
        num_layers=model.num_layers,
        d_ff=model.d_ff,
        dropout=model.dropout,
        max_len=max_len,
        norm=model.norm,
        tie_weights=model.tie_weights,
        positions=model.positions,
        activation=model.activation,
    )
