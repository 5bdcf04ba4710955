"""The first loss of a fresh model beside the reference levels."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diagnostics.probe import read
from diagnostics.probes.untrained_loss import UNTRAINED_LOSS, UntrainedLoss
from diagnostics.subject import Batch, Subject
from tests import subjects


def measured(subject: Subject) -> UntrainedLoss:
    reading = read(UNTRAINED_LOSS, subject, seed=0)
    assert reading.reason is None
    return reading.measurement


@pytest.mark.parametrize("name", ["torch-encoder", "gru", "gpt2", "encoder-decoder"])
def test_a_fresh_language_model_starts_near_the_uniform_level(name: str) -> None:
    first = measured(subjects.HEALTHY[name]())
    assert first.classes == subjects.VOCAB
    assert abs(first.loss - math.log(subjects.VOCAB)) < 1.0
    assert [level.name for level in first.levels][-1] == "bigram"


def test_levels_come_from_high_to_low_and_the_nearest_is_named() -> None:
    first = measured(subjects.gru())
    nats = [level.nats for level in first.levels]
    assert nats == sorted(nats, reverse=True)
    distances = {level.name: abs(level.nats - first.loss) for level in first.levels}
    assert first.nearest == min(distances, key=distances.__getitem__)


def test_a_classifier_is_compared_with_its_classes() -> None:
    first = measured(subjects.mlp())
    levels = {level.name: level.nats for level in first.levels}
    assert levels["uniform"] == math.log(3)
    assert "bigram" not in levels


def test_a_sum_is_divided_by_its_targets() -> None:
    def summed(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    whole, summed_up = measured(subjects.mlp()), measured(replace(subjects.mlp(), loss=summed))
    assert summed_up.reduction == "sum"
    assert summed_up.per_target == pytest.approx(whole.loss)
    assert summed_up.loss == pytest.approx(37 * whole.loss)


def test_a_loss_of_another_kind_has_no_levels() -> None:
    squared = replace(subjects.mlp(), loss=lambda model, batch: model(batch[0]).square().mean())
    assert (measured(squared).levels, measured(squared).nearest) == ((), None)


def test_ignored_targets_do_not_count() -> None:
    subject = subjects.gru()
    assert subject.token_view is not None
    tokens_below_five = replace(subject.token_view, ignored=lambda tokens: tokens[:, 1:] >= 5)
    levels = {level.name: level.nats for level in measured(replace(subject, token_view=tokens_below_five)).levels}
    assert levels["unigram"] <= math.log(5)
