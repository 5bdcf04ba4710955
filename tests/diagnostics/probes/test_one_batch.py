"""Learning one batch by heart, and the bound that equal contexts set."""

import math
from dataclasses import replace

import pytest
import torch

from diagnostics.probe import read
from diagnostics.probes.one_batch import ONE_BATCH, OneBatch, context_entropy
from diagnostics.subject import Subject
from tests import subjects


def measured(subject: Subject) -> OneBatch:
    reading = read(ONE_BATCH, subject, seed=0)
    assert reading.reason is None
    return reading.measurement


def test_a_classifier_learns_its_batch_and_has_no_generation() -> None:
    learned = measured(subjects.mlp())
    assert learned.lowest < 0.05 < learned.first
    assert (learned.generating, learned.lowest_possible, learned.generating_lowest_possible) == (None, 0.0, 0.0)


def test_a_language_model_knows_its_batch_when_it_generates() -> None:
    learned = measured(subjects.gru())
    assert learned.generating is not None
    assert learned.lowest_possible <= learned.lowest < learned.lowest_possible + 0.1
    assert learned.generating < learned.generating_lowest_possible + 0.1


def test_generation_that_scores_otherwise_does_not_know_the_batch() -> None:
    subject = subjects.gru()
    assert subject.token_view is not None
    constant = replace(subject.token_view, next_logits=lambda model, tokens: torch.zeros(len(tokens), subjects.VOCAB))
    assert measured(replace(subject, token_view=constant)).generating == pytest.approx(math.log(subjects.VOCAB))


def test_equal_contexts_with_different_targets_cannot_be_told_apart() -> None:
    stream = torch.tensor([[5, 1, 2], [5, 1, 3], [5, 4, 2], [7, 1, 2]])
    # After "5" come 1, 1, 4; after "7" comes 1; after "5 1" come 2, 3; after "5 4" and "7 1" comes 2.
    thirds = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert context_entropy(stream, stream[:, 1:]) == pytest.approx((3 * thirds + 2 * math.log(2)) / 8)
    assert context_entropy(stream, stream[:, 1:], only_last=True) == pytest.approx(2 * math.log(2) / 4)


def test_ignored_targets_set_no_bound() -> None:
    stream = torch.tensor([[5, 1], [5, 3]])
    assert context_entropy(stream, torch.tensor([[1], [-1]])) == 0.0
    assert context_entropy(stream, torch.tensor([[-1], [-1]])) == 0.0


def test_a_stream_as_long_as_its_targets_predicts_all_but_the_first() -> None:
    stream = torch.tensor([[5, 1, 2], [5, 1, 3]])
    assert context_entropy(stream, stream) == pytest.approx(math.log(2) / 2)
