"""Rows of scores, and the targets that they are compared with: too far ahead, behind, of others, along a wrong axis."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    logits_over_the_wrong_axis,
    targets_shifted_backwards,
    targets_shifted_too_far,
    targets_unrelated_to_inputs,
)
from diagnostics.subject import Batch, Subject
from tests import subjects

Judge = Callable[..., Verdict]
Loss = Callable[[nn.Module, Tensor], Tensor]

FAULTS = [
    module.FAULT
    for module in (
        logits_over_the_wrong_axis,
        targets_shifted_backwards,
        targets_shifted_too_far,
        targets_unrelated_to_inputs,
    )
]
ONE_STREAM = ("torch-encoder", "gru", "gpt2", "decoder-only", "seq2seq", "nn-transformer")


def fires(subject: Subject, verdict_of: Judge) -> list[str]:
    """Which of these faults are present."""
    return [fault.id for fault in FAULTS if verdict_of(fault, subject).status == "present"]


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_healthy_subject_raises_no_alarm(name: str, verdict_of: Judge) -> None:
    assert fires(subjects.HEALTHY[name](), verdict_of) == []


@pytest.mark.parametrize("name", ONE_STREAM)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_alone_and_the_remedy_cures(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert fault.plant is not None
    faulty = fault.plant(subjects.HEALTHY[name]())
    assert fires(faulty, verdict_of) == [fault.id]
    for remedy in fault.remedies:
        assert fires(remedy.apply(faulty), verdict_of) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_classifier_cannot_carry_them(fault: Fault) -> None:
    assert fault.plant is not None
    with pytest.raises(ValueError, match=r"not clear|nothing to mix up"):
        fault.plant(subjects.mlp())


def viewed(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]), tokens[:, 1:]
    return F.cross_entropy(scores.view(len(targets), subjects.VOCAB, -1), targets)


def turned_and_flattened(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]).transpose(0, 1), tokens[:, 1:]
    return F.cross_entropy(scores.reshape(-1, subjects.VOCAB), targets.reshape(-1))


def classes_first_and_flattened(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:]
    return F.cross_entropy(scores.reshape(-1, subjects.VOCAB), targets.reshape(-1))


def normalised_over_positions(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]).log_softmax(dim=1), tokens[:, 1:]
    return F.nll_loss(scores.flatten(0, 1), targets.flatten())


def one_hot_along_last(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]), tokens[:, 1:]
    return F.cross_entropy(scores, F.one_hot(targets, subjects.VOCAB).float())


def next_but_one(model: nn.Module, tokens: Tensor) -> Tensor:
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    scores = model(inputs)  # labels are shifted already, and once more here
    return F.cross_entropy(scores[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def previous(model: nn.Module, tokens: Tensor) -> Tensor:
    scores = model(tokens[:, :-1])
    return F.cross_entropy(scores[:, 1:].transpose(1, 2), tokens[:, :-2])


def of_the_next_sample(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]), tokens[:, 1:].roll(1, 0)
    return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


WRITTEN_IN: list[tuple[str, Loss]] = [
    ("logits-over-the-wrong-axis", viewed),
    ("logits-over-the-wrong-axis", turned_and_flattened),
    ("logits-over-the-wrong-axis", classes_first_and_flattened),
    ("logits-over-the-wrong-axis", normalised_over_positions),
    ("logits-over-the-wrong-axis", one_hot_along_last),
    ("targets-shifted-too-far", next_but_one),
    ("targets-shifted-backwards", previous),
    ("targets-unrelated-to-inputs", of_the_next_sample),
]


@pytest.mark.parametrize(("fault", "loss"), WRITTEN_IN, ids=lambda each: getattr(each, "__name__", None))
@pytest.mark.parametrize("name", ["gru", "torch-encoder"])
def test_what_a_stranger_writes_is_found_and_nothing_else(name: str, fault: str, loss: Loss, verdict_of: Judge) -> None:
    assert fires(replace(subjects.HEALTHY[name](), loss=loss), verdict_of) == [fault]


def transposed(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:])


def all_but_last(model: nn.Module, tokens: Tensor) -> Tensor:
    scores = model(tokens[:, :-1])
    return F.cross_entropy(scores[:, :-1].reshape(-1, subjects.VOCAB), tokens[:, 1:-1].reshape(-1))


def last_only(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1])[:, -1], tokens[:, -1])


def mean_over_positions(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).mean(1), tokens[:, 0])


def turned_together(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]).transpose(0, 1), tokens[:, 1:].T
    return F.cross_entropy(scores.reshape(-1, subjects.VOCAB), targets.reshape(-1))


def two_ahead_as_well(model: nn.Module, tokens: Tensor) -> Tensor:
    scores = model(tokens[:, :-1])
    further = F.cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 2:].flatten())
    return F.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten()) + 0.1 * further


def only_where_it_counts(model: nn.Module, tokens: Tensor) -> Tensor:
    scores, targets = model(tokens[:, :-1]), tokens[:, 1:]
    counts = targets != 3
    return F.cross_entropy(scores[counts], targets[counts])


def echo(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens)[:, 4:].flatten(0, 1), tokens[:, :-4].flatten())


HARMLESS: list[Loss] = [
    transposed,
    all_but_last,
    last_only,
    mean_over_positions,
    turned_together,
    two_ahead_as_well,
    only_where_it_counts,
    echo,
]


@pytest.mark.parametrize("loss", HARMLESS, ids=lambda loss: loss.__name__)
def test_what_people_write_and_mean_raises_no_alarm(loss: Loss, verdict_of: Judge) -> None:
    assert fires(replace(subjects.gru(), loss=loss), verdict_of) == []


def hugging_face(labels: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Subject:
    """GPT-2 that is given labels and computes its own loss."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=subjects.VOCAB, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        inputs, wanted = labels(tokens)
        return model(input_ids=inputs, labels=wanted).loss

    build = subjects.seeded(lambda: GPT2LMHeadModel(config))
    return replace(subjects.gpt2(), model=build(0), build=build, loss=loss, token_view=None)


def test_labels_that_are_shifted_twice_are_found(verdict_of: Judge) -> None:
    assert fires(hugging_face(lambda tokens: (tokens, tokens)), verdict_of) == []
    twice = hugging_face(lambda tokens: (tokens[:, :-1], tokens[:, 1:]))
    assert fires(twice, verdict_of) == ["targets-shifted-too-far"]


class TimeFirst(nn.Module):
    """A recurrent language model that takes and gives positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru = nn.Embedding(subjects.VOCAB, 19), nn.GRU(19, 31)
        self.head = nn.Linear(31, subjects.VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])


@pytest.mark.parametrize("wrong", [False, True])
def test_positions_first_against_samples_first_is_found(wrong: bool, verdict_of: Judge) -> None:
    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        scores, targets = model(tokens[:, :-1].T), tokens[:, 1:]
        return F.cross_entropy(scores.view(-1, subjects.VOCAB), (targets if wrong else targets.T).reshape(-1))

    build = subjects.seeded(TimeFirst)
    subject = replace(subjects.gru(), model=build(0), build=build, loss=loss, batch_axis=1, token_view=None)
    assert fires(subject, verdict_of) == (["logits-over-the-wrong-axis"] if wrong else [])
    if wrong:
        remedy = logits_over_the_wrong_axis.FAULT.remedies[0]
        assert fires(remedy.apply(subject), verdict_of) == []


def test_two_loaders_that_shuffle_apart_are_found(verdict_of: Judge) -> None:
    def batches(seed: int) -> Iterator[Batch]:
        for tokens in subjects.windows(subjects.TRAIN)(seed):
            order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
            yield tokens[:, :-1], tokens[order, 1:]

    subject = replace(
        subjects.torch_encoder(),
        batches=batches,
        heldout=None,
        token_view=None,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten()),
    )
    assert fires(subject, verdict_of) == ["targets-unrelated-to-inputs"]
