import math

import pytest
import torch
from torch import nn

from experiments.config import RunConfig, override
from experiments.evaluation import bleu, evaluate
from experiments.tasks import NextToken, Translation, task


class Uniform(nn.Module):
    """Gives every token the same chance."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.nothing.expand(*tokens.shape, -1)


def test_uniform_predictions_cost_ln_v_per_token_and_the_same_text_in_bits_per_byte(tiny: RunConfig) -> None:
    found = task(tiny)
    assert isinstance(found, NextToken)
    vocab_size = found.tokenizer.vocab_size
    result = evaluate(found, Uniform(vocab_size))
    asked = torch.cat(list(found.held_out()))[:, 1:].flatten().tolist()
    num_bytes = len(found.tokenizer.decode_bytes(asked))
    assert result.tokens == len(asked)
    assert result.loss == pytest.approx(math.log(vocab_size), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(len(asked) * math.log2(vocab_size) / num_bytes, rel=1e-6)


def test_batches_of_other_sizes_give_the_same_loss(tiny: RunConfig) -> None:
    model = task(tiny).build(0)
    losses = [evaluate(task(override(tiny, {"data.batch_size": size})), model).loss for size in (2, 7)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_evaluation_is_without_dropout_and_restores_the_mode(tiny: RunConfig) -> None:
    found = task(tiny)
    model = found.build(0).train()
    assert evaluate(found, model) == evaluate(found, model)
    assert model.training
    evaluate(found, model.eval())
    assert not model.training


def test_only_so_many_batches_are_looked_at(tiny: RunConfig) -> None:
    found = task(tiny)
    assert evaluate(found, found.build(0), max_batches=2).tokens == 2 * tiny.data.batch_size * tiny.data.context


def test_bleu_is_100_for_the_reference_itself(tiny_pairs: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = task(tiny_pairs)
    assert isinstance(found, Translation)
    model = found.build(0)
    references = dict(found.corpus_lines(200))
    assert bleu(found, model, max_pairs=5) < 50

    def perfect(model: nn.Module, lines: list[str], **settings: int) -> list[str]:
        return [references[line] for line in lines]

    monkeypatch.setattr(found, "translated", perfect)
    assert bleu(found, model) == pytest.approx(100)
