"""Every module and number that a script used is found in one model, as it was before the first step."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from diagnostics.adapt import check_scope
from diagnostics.capture import observer
from diagnostics.capture.captured import captured
from diagnostics.capture.recording import Recording
from diagnostics.capture.replica import replica_of
from diagnostics.capture.tape import Parts
from tests.diagnostics.capture.training import CLASSES, INPUTS, ROWS, Training, network, watched


class InParts(nn.Module):
    """A model whose methods are called, never the model."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(INPUTS, 11), nn.Linear(11, CLASSES)

    def scores(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(inputs)))


def test_the_module_that_is_called_is_the_model_and_its_start_has_the_first_numbers() -> None:
    training = Training()
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    replica = replica_of(training.run(training.usual(SGD(training.model.parameters(), 0.1))))
    assert replica.model is training.model
    assert replica.start is not training.model
    assert all(torch.equal(value, before[name]) for name, value in replica.start.state_dict().items())
    assert not torch.equal(training.model[0].weight, before["0.weight"])
    assert all(parameter.grad is None for parameter in replica.start.parameters())
    assert (len(replica.batches), replica.left_out, replica.heldout) == (5, 0, ())


def steps_of(loss_of: object, parameters: object, steps: int = 5) -> Recording:
    optimizer = SGD(parameters, 0.1)  # type: ignore[arg-type]
    with watched() as recording:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of().backward()  # type: ignore[operator]
            optimizer.step()
    return recording


def test_a_model_of_which_only_parts_are_called_is_found() -> None:
    model = InParts()
    recording = steps_of(
        lambda: F.cross_entropy(model.scores(torch.randn(ROWS, INPUTS)), torch.randint(CLASSES, (ROWS,))),
        list(model.parameters()),
    )
    assert replica_of(recording).model is model
    assert captured(recording).reproduction.exact


def test_modules_that_lie_in_no_model_are_made_one() -> None:
    body, head = nn.Linear(INPUTS, 11), nn.Linear(11, CLASSES)
    recording = steps_of(
        lambda: F.cross_entropy(head(torch.tanh(body(torch.randn(ROWS, INPUTS)))), torch.randint(CLASSES, (ROWS,))),
        [*body.parameters(), *head.parameters()],
    )
    replica = replica_of(recording)
    assert isinstance(replica.model, Parts)
    assert {id(p) for p in replica.model.parameters()} == {id(p) for p in (*body.parameters(), *head.parameters())}
    assert captured(recording).reproduction.exact


def test_a_number_that_is_the_same_in_every_loss_is_no_part_of_the_batch() -> None:
    training, weight = Training(), torch.tensor([1.0, 2.0, 3.0])

    def step() -> None:
        rows = torch.randint(len(training.inputs), (ROWS,))
        scores = training.model(training.inputs[rows])
        optimizer.zero_grad()
        F.cross_entropy(scores, training.targets[rows], weight=weight).backward()
        optimizer.step()

    optimizer = SGD(training.model.parameters(), 0.1)
    batch = replica_of(training.run(step)).batches[0]
    assert sorted(tuple(each.shape) for each in batch.values()) == [(ROWS,), (ROWS, INPUTS)]


def test_losses_of_the_rarer_kind_are_left_out_and_told() -> None:
    training, other = Training(), nn.Linear(INPUTS, 1)
    optimizer = SGD([*training.model.parameters(), *other.parameters()], 0.1)
    steps = iter(range(5))

    def step() -> None:
        optimizer.zero_grad()
        loss = other(torch.randn(ROWS, INPUTS)).square().mean() if next(steps) == 3 else training.loss()
        loss.backward()
        optimizer.step()

    found = captured(training.run(step))
    assert found.subject.model is training.model
    assert len(found.reproduction.seen) == 4
    assert found.reproduction.exact
    assert "1 backward passes on another kind of loss were left out" in found.subject.notes


def nothing(training: Training) -> None:
    training.loss()


def no_step(training: Training) -> None:
    training.loss().backward()


def no_number(training: Training) -> None:
    optimizer = SGD(training.model.parameters(), 0.1)
    training.model(training.inputs).backward(torch.ones(len(training.inputs), CLASSES))
    optimizer.step()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (nothing, r"^train\.py never trains: no loss\.backward\(\) was seen$"),
        (no_step, r"^train\.py never trains: 1 backward passes were seen, but no optimizer ever took a step$"),
        (no_number, r"^the losses of train\.py cannot be played again: backward was called on something else than one"),
    ],
)
def test_what_cannot_be_played_is_told_in_one_line(script: object, message: str) -> None:
    training = Training()
    with watched() as recording:
        script(training)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        captured(recording)


def test_batches_beyond_the_memory_limit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "MOST_BYTES", 200)
    training = Training()
    recording = training.run(training.usual(SGD(training.model.parameters(), 0.1)))
    kept = [event.forward is not None for window in recording.windows for event in window.backwards]
    assert kept == [True, True, False, False, False]
    reasons = {event.reason for window in recording.windows for event in window.backwards if event.forward is None}
    assert reasons == {"the recorded batches have used up their memory"}
    found = captured(recording)
    assert found.reproduction.exact
    assert len(list(found.subject.batches(0))) == 2


def test_models_in_several_places_are_refused_in_one_line() -> None:
    training = Training(nn.DataParallel(network()))
    recording = training.run(training.usual(SGD(training.model.parameters(), 0.1)))
    with pytest.raises(ValueError, match="DataParallel") as error:
        captured(recording)
    assert "\n" not in str(error.value)


def test_a_compiled_model_is_refused_in_one_line() -> None:
    model = torch.compile(network(), backend="eager")
    with pytest.raises(ValueError, match="compile") as error:
        check_scope(model)
    assert "\n" not in str(error.value)


def test_a_model_that_cannot_be_copied_is_refused_with_its_reason() -> None:
    class Locked(nn.Sequential):
        def __deepcopy__(self, memory: dict[int, object]) -> nn.Module:
            raise TypeError("there is only one of me")

    training = Training(Locked(network()))
    recording = training.run(training.usual(SGD(training.model.parameters(), 0.1)))
    with pytest.raises(ValueError, match="refuses to be copied: TypeError: there is only one of me") as error:
        captured(recording)
    assert "\n" not in str(error.value)
