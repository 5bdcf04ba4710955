"""The subject that a recording shows: its starts, history, sample axis and notes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from diagnostics.capture.captured import captured
from diagnostics.capture.recording import Recording
from tests.diagnostics.capture.training import Training, watched

VOCAB = 13


class Words(nn.Module):
    """A language model that sees earlier times along one axis."""

    def __init__(self, time_axis: int) -> None:
        super().__init__()
        self.embedding, self.head, self.time_axis = nn.Embedding(VOCAB, 11), nn.Linear(11, VOCAB), time_axis

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens).cumsum(self.time_axis)))


def usual(recorded: Training) -> Recording:
    return recorded.run(recorded.usual(SGD(recorded.model.parameters(), 0.1)))


def words(time_axis: int, samples: int, times: int) -> Recording:
    model = Words(time_axis)
    optimizer = SGD(model.parameters(), 0.1)
    stream = torch.randint(VOCAB, (211,))
    with watched() as recording:
        for _ in range(5):
            starts = torch.randint(len(stream) - times - 1, (samples,))
            tokens = torch.stack([stream[i : i + times + 1] for i in starts], dim=1 - time_axis)
            inputs, targets = (tokens[:, :-1], tokens[:, 1:]) if time_axis == 1 else (tokens[:-1], tokens[1:])
            optimizer.zero_grad()
            F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
    return recording


@pytest.mark.parametrize("time_axis", [0, 1])
@pytest.mark.parametrize(("samples", "times"), [(3, 7), (7, 3), (5, 5)])
def test_samples_lie_along_the_other_axis_than_time(time_axis: int, samples: int, times: int) -> None:
    found = captured(words(time_axis, samples, times))
    assert found.reproduction.exact
    assert found.subject.batch_axis == 1 - time_axis
    assert found.subject.token_view is not None, found.subject.lacks


def test_the_first_seed_starts_as_the_script_and_another_one_from_its_numbers_shuffled() -> None:
    training = Training()
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    subject = captured(usual(training)).subject
    assert subject.build is not None
    assert all(torch.equal(value, before[name]) for name, value in subject.build(0).state_dict().items())
    other = subject.build(1).state_dict()
    assert not torch.equal(other["0.weight"], before["0.weight"])
    assert torch.equal(other["0.weight"].flatten().sort().values, before["0.weight"].flatten().sort().values)
    assert any("shuffled within each matrix" in note for note in subject.notes)


def test_another_seed_starts_as_the_script_does_with_it_where_that_is_known_and_fits() -> None:
    training = Training()
    recording = usual(training)
    start = {name: torch.full_like(value, 3.0) for name, value in training.model.state_dict().items()}
    subject = captured(recording, {1: start, 2: start | {"0.bias": torch.zeros(2)}}).subject
    assert subject.build is not None
    assert all(bool((value == 3.0).all()) for value in subject.build(1).state_dict().values())
    assert not any(bool((value == 3.0).all()) for value in subject.build(2).state_dict().values())


def test_the_history_holds_the_losses_and_the_graphs_that_the_script_kept() -> None:
    training, kept = Training(), list[Tensor]()
    optimizer = SGD(training.model.parameters(), 0.1)

    def step(keep: bool) -> None:
        optimizer.zero_grad()
        loss = training.loss()
        loss.backward()
        optimizer.step()
        if keep:
            kept.append(loss)

    subject = captured(training.run(lambda: step(True), 11)).subject
    assert subject.history is not None
    assert [float(torch.as_tensor(each).detach()) for each in subject.history.losses] == training.losses
    assert [each is one for each, one in zip(subject.history.losses, kept, strict=True)] == [True] * 11
    second = Training()
    training, optimizer = second, SGD(second.model.parameters(), 0.1)
    history = captured(second.run(lambda: step(False), 11)).subject.history
    assert history is not None
    assert list(history.losses) == second.losses
    assert all(isinstance(each, float) for each in history.losses)


def test_the_notes_say_what_was_seen_and_that_it_comes_out_the_same() -> None:
    found = captured(usual(Training()))
    assert found.subject.notes[0].startswith("5 steps of train.py were seen in ")
    assert "its first 5 losses, played again from the start, come out the same to the last digit" in found.subject.notes


def test_a_script_that_raised_has_that_said_first() -> None:
    recording = usual(Training())
    recording.said = "KeyError: 'loss' (train.py, line 7)"
    assert (
        captured(recording).subject.notes[0].startswith("the script raised KeyError: 'loss' (train.py, line 7): mend")
    )


def test_weights_that_somebody_else_changes_between_steps_are_told_to_differ() -> None:
    training = Training()
    train = training.usual(SGD(training.model.parameters(), 0.1))

    def step() -> None:
        train()
        with torch.no_grad():
            training.model[0].weight.data.mul_(0.5)

    found = captured(training.run(step))
    assert not found.reproduction.exact
    assert found.reproduction.worst > 0
    assert any("differ by up to" in note for note in found.subject.notes)
