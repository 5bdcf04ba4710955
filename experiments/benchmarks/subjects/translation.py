"""Healthy sequence-to-sequence models: a source is read, a target of its own is written.

The source is a piece of the Markov chain of 3 to 7 tokens, the target the same piece between a start and an end token;
both are padded to one length. The target's own chain is soon learned; only the source says which branch it takes, so
with it the loss can fall to 0.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diagnostics.subject import Subject, TokenView
from experiments.benchmarks.subjects.markov import (
    BATCH,
    BATCHES_PER_PASS,
    HELDOUT,
    TRAIN,
    VOCAB,
    trained,
)
from transformer import ModelConfig, Seq2Seq

PAD, START, END, SPECIAL = 0, 1, 2, 3
WORDS = VOCAB + SPECIAL
SHORTEST, LONGEST = 3, 7


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A batch: sources, and targets from the start token to the end token, both padded behind."""

    source: Int[Tensor, "batch source_len"]
    target: Int[Tensor, "batch target_len"]


def pairs(stream: Int[Tensor, " length"]) -> Callable[[int], Iterator[Pair]]:
    """seed -> batches of pieces of the stream and the same pieces as targets."""

    def batches(seed: int) -> Iterator[Pair]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(BATCHES_PER_PASS):
            starts = torch.randint(len(stream) - LONGEST, (BATCH,), generator=generator)
            lengths = torch.randint(SHORTEST, LONGEST + 1, (BATCH, 1), generator=generator)
            yield pair(stream[starts[:, None] + torch.arange(LONGEST)] + SPECIAL, lengths)

    return batches


def pair(words: Int[Tensor, "batch longest"], lengths: Int[Tensor, "batch 1"]) -> Pair:
    """The first words of each row as source and as target."""
    place = torch.arange(words.shape[1])
    source = torch.where(place < lengths, words, PAD)
    target = F.pad(source, (1, 1), value=PAD)
    target[:, 0] = START
    target.scatter_(1, lengths + 1, END)
    return Pair(source=source, target=target)


class TutorialTransformer(nn.Module):
    """torch's ``nn.Transformer`` as its tutorial uses it: time first, masks as arguments, learned positions."""

    def __init__(self, width: int, layers: int, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(WORDS, width)
        self.target_embedding = nn.Embedding(WORDS, width)
        self.positions = nn.Parameter(torch.randn(LONGEST + 2, 1, width))
        self.dropout = nn.Dropout(dropout)
        with warnings.catch_warnings():  # torch recommends batch first for speed; many keep time first
            warnings.filterwarnings("ignore", message="enable_nested_tensor is True")
            self.transformer = nn.Transformer(
                width, 2, layers, layers, 2 * width - 3, dropout, norm_first=norm_first, batch_first=False
            )
        self.generator = nn.Linear(width, WORDS)

    def forward(
        self,
        src: Int[Tensor, "source_len batch"],
        tgt: Int[Tensor, "target_len batch"],
        tgt_mask: Bool[Tensor, "target_len target_len"],
        src_padding_mask: Bool[Tensor, "batch source_len"],
        tgt_padding_mask: Bool[Tensor, "batch target_len"],
    ) -> Float[Tensor, "target_len batch vocab"]:
        source = self.dropout(self.source_embedding(src) + self.positions[: len(src)])
        target = self.dropout(self.target_embedding(tgt) + self.positions[: len(tgt)])
        outputs = self.transformer(
            source,
            target,
            tgt_mask=tgt_mask,
            src_key_padding_mask=src_padding_mask,
            tgt_key_padding_mask=tgt_padding_mask,
            memory_key_padding_mask=src_padding_mask,
        )
        return self.generator(outputs)


def nn_transformer(
    *, width: int = 32, layers: int = 1, dropout: float = 0.1, norm_first: bool = False, lr: float = 5e-3
) -> Subject:
    """torch's ``nn.Transformer``, time first, with (source, target) batches and masks made by the training loop."""

    def logits(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Float[Tensor, "target_len batch vocab"]:
        source, target = batch[0], batch[1][:-1]
        hidden = torch.ones(len(target), len(target), dtype=torch.bool, device=target.device).triu(1)
        return model(source, target, hidden, (source == PAD).T, (target == PAD).T)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        return F.cross_entropy(logits(model, batch).reshape(-1, WORDS), batch[1][1:].reshape(-1), ignore_index=PAD)

    def time_first(stream: Tensor) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
        return lambda seed: ((each.source.T, each.target.T) for each in pairs(stream)(seed))

    return trained(
        "nn-transformer",
        lambda: TutorialTransformer(width, layers, dropout, norm_first),
        lr,
        loss=loss,
        batches=time_first(TRAIN),
        heldout=time_first(HELDOUT),
        batch_axis=1,
        token_view=TokenView(
            vocab_size=WORDS,
            tokens=lambda batch: batch[1].T,
            with_tokens=lambda batch, other: (batch[0], other.T),
            logits=lambda model, batch: logits(model, batch).transpose(0, 1),
            targets=lambda batch: batch[1][1:].T,
            ignored=lambda batch: batch[1][1:].T == PAD,
            padding_id=PAD,
        ),
    )


def seq2seq(
    *, width: int = 32, layers: int = 1, dropout: float = 0.1, norm_first: bool = True, lr: float = 5e-3
) -> Subject:
    """Our own encoder-decoder of the 2017 paper, batch first, one matrix for all three embeddings."""
    config = ModelConfig(
        vocab_size=WORDS,
        d_model=width,
        num_heads=2,
        num_layers=layers,
        dropout=dropout,
        max_len=LONGEST + 2,
        norm="before" if norm_first else "after",
    )

    def logits(model: nn.Module, batch: Pair) -> Float[Tensor, "batch target_len vocab"]:
        return model(batch.source, batch.target[:, :-1], batch.source == PAD)

    def loss(model: nn.Module, batch: Pair) -> Float[Tensor, ""]:
        return F.cross_entropy(logits(model, batch).flatten(0, 1), batch.target[:, 1:].flatten(), ignore_index=PAD)

    return trained(
        "seq2seq",
        lambda: Seq2Seq(config),
        lr,
        loss=loss,
        batches=pairs(TRAIN),
        heldout=pairs(HELDOUT),
        token_view=TokenView(
            vocab_size=WORDS,
            tokens=lambda batch: batch.target,
            with_tokens=lambda batch, other: replace(batch, target=other),
            logits=logits,
            targets=lambda batch: batch.target[:, 1:],
            ignored=lambda batch: batch.target[:, 1:] == PAD,
            padding_id=PAD,
        ),
    )


def t5(*, width: int = 32, layers: int = 1, dropout: float = 0.1, lr: float = 1e-2) -> Subject:
    """Hugging Face's T5 from a config: dict batches, the labels shifted by the model, the loss from ``.loss``."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=WORDS,
        d_model=width,
        d_kv=width // 2,
        d_ff=2 * width - 3,
        num_layers=layers,
        num_heads=2,
        dropout_rate=dropout,
        pad_token_id=PAD,
        eos_token_id=END,
        use_cache=False,
    )
    config.decoder_start_token_id = PAD

    def batches(stream: Tensor) -> Callable[[int], Iterator[dict[str, Tensor]]]:
        return lambda seed: (as_dict(each) for each in pairs(stream)(seed))

    def tokens(batch: dict[str, Tensor]) -> Int[Tensor, "batch target_len"]:
        """The labels, which are all that a batch holds of the target: the model makes the decoder's input of them."""
        return batch["labels"].clamp_min(PAD)

    def with_tokens(batch: dict[str, Tensor], other: Tensor) -> dict[str, Tensor]:
        return batch | {"labels": other.masked_fill(other == PAD, -100)}

    return trained(
        "t5",
        lambda: T5ForConditionalGeneration(config),
        lr,
        loss=lambda model, batch: model(**batch).loss,
        batches=batches(TRAIN),
        heldout=batches(HELDOUT),
        token_view=TokenView(
            vocab_size=WORDS,
            tokens=tokens,
            with_tokens=with_tokens,
            logits=lambda model, batch: model(**batch).logits,
            targets=tokens,
            ignored=lambda batch: batch["labels"] == -100,
            padding_id=PAD,
        ),
    )


def as_dict(batch: Pair) -> dict[str, Tensor]:
    """A pair as Hugging Face's models take it."""
    labels = batch.target[:, 1:]
    return {
        "input_ids": batch.source,
        "attention_mask": (batch.source != PAD).long(),
        "labels": labels.masked_fill(labels == PAD, -100),
    }
