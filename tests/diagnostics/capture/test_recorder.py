"""A recording goes back from a loss through the model to where the batch begins, and no further."""

import random
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode
from torch.utils.data import DataLoader, TensorDataset

from diagnostics.capture import recorder as recorder_module
from diagnostics.capture.observer import Observer
from diagnostics.capture.recorder import Forward, Randomness, Recorder, writes
from diagnostics.capture.recording import Backward, Recording

ROWS, INPUTS, CLASSES, SAMPLES = 7, 5, 3, 211
Shapes = set[tuple[int, ...]]


class Data:
    """A large table and its classes, made while nobody looks."""

    def __init__(self) -> None:
        self.inputs, self.targets = torch.randn(SAMPLES, INPUTS), torch.randint(CLASSES, (SAMPLES,))


Fetch = Callable[[Data], tuple[Tensor, Tensor]]


def backward_of(loss: Callable[[], Tensor]) -> Backward:
    """What is noted of backward on a loss that is computed under observation."""
    recording = Recording(name="one")
    with Observer(recording):
        loss().backward()
    (event,) = recording.events[-1:]
    assert isinstance(event, Backward)
    return event


def forward_of(loss: Callable[[], Tensor]) -> Forward:
    """The calls behind a loss."""
    event = backward_of(loss)
    assert event.forward is not None, event.reason
    return event.forward


def calls_of(forward: Forward) -> list[str]:
    """The names of the functions between batch and loss; a module is "part"."""
    return [getattr(node.call, "__name__", "part") for node in forward.nodes]


def shapes_of(forward: Forward) -> Shapes:
    return {tuple(tensor.shape) for tensor in forward.batch.values()}


def by_rows(data: Data) -> tuple[Tensor, Tensor]:
    return data.inputs[14 : 14 + ROWS], data.targets[14 : 14 + ROWS]


def by_numbers(data: Data) -> tuple[Tensor, Tensor]:
    chosen = torch.randint(SAMPLES, (ROWS,))
    return data.inputs[chosen], data.targets[chosen]


def by_permutation(data: Data) -> tuple[Tensor, Tensor]:
    chosen = torch.randperm(SAMPLES)[:ROWS]
    return data.inputs.index_select(0, chosen), data.targets.gather(0, chosen)


def stacked(data: Data) -> tuple[Tensor, Tensor]:
    numbers = range(3, 3 + ROWS)
    return torch.stack([data.inputs[i] for i in numbers]), torch.stack([data.targets[i] for i in numbers])


def filled(data: Data) -> tuple[Tensor, Tensor]:
    inputs, targets = torch.zeros(ROWS, INPUTS), torch.zeros(ROWS, dtype=torch.long)
    for row in range(ROWS):
        inputs[row] = data.inputs[row]
        targets[row] = data.targets[row]
    return inputs, targets


def filled_by_out(data: Data) -> tuple[Tensor, Tensor]:
    inputs, targets = torch.empty(ROWS, INPUTS), torch.empty(ROWS, dtype=torch.long)
    torch.index_select(data.inputs, 0, torch.arange(ROWS), out=inputs)
    torch.index_select(data.targets, 0, torch.arange(ROWS), out=targets)
    return inputs, targets


def split(data: Data) -> tuple[Tensor, Tensor]:
    return data.inputs.split(ROWS)[2], data.targets.split(ROWS)[2]


def from_numpy(data: Data) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data.inputs.numpy()[:ROWS]), torch.from_numpy(data.targets.numpy()[:ROWS])


def from_lists(data: Data) -> tuple[Tensor, Tensor]:
    return torch.tensor(data.inputs[:ROWS].tolist()), torch.tensor(data.targets[:ROWS].tolist())


def drawn(data: Data) -> tuple[Tensor, Tensor]:
    return torch.randn(ROWS, INPUTS), torch.randint(CLASSES, (ROWS,))


def loaded(workers: int) -> Fetch:
    def fetch(data: Data) -> tuple[Tensor, Tensor]:
        loader = DataLoader(TensorDataset(data.inputs, data.targets), ROWS, shuffle=True, num_workers=workers)
        inputs, targets = next(iter(loader))
        return inputs, targets

    return fetch


FETCHES: dict[str, Fetch] = {
    "rows": by_rows,
    "row numbers": by_numbers,
    "permutation": by_permutation,
    "stack": stacked,
    "filled in place": filled,
    "filled by out=": filled_by_out,
    "split": split,
    "numpy": from_numpy,
    "lists": from_lists,
    "drawn": drawn,
    "loader": loaded(0),
    "loader with a worker": loaded(1),
}


@pytest.mark.parametrize("fetch", FETCHES.values(), ids=FETCHES)
def test_a_batch_begins_where_it_was_fetched(fetch: Fetch) -> None:
    data, model, given = Data(), nn.Linear(INPUTS, CLASSES), list[Tensor]()

    def loss() -> Tensor:
        inputs, targets = fetch(data)
        given.extend((inputs, targets))
        return F.cross_entropy(model(inputs), targets)

    forward = forward_of(loss)
    assert calls_of(forward) == ["part", "cross_entropy"]
    assert forward.batch.keys() == {"input", "targets"}
    assert torch.equal(forward.batch["input"], given[0])
    assert torch.equal(forward.batch["targets"], given[1])


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "sub": lambda inputs: inputs - 1.5,
    "masked_fill": lambda inputs: inputs.masked_fill(inputs < 0, 0.0),
    "float": lambda inputs: inputs.float(),
    "one_hot": lambda inputs: F.one_hot((inputs > 0).long(), 2)[..., 0].float(),
    "flip": lambda inputs: inputs.flip(1),
}


@pytest.mark.parametrize("change", KEPT.values(), ids=KEPT)
def test_what_is_made_of_a_batch_stays_on_the_tape(change: Callable[[Tensor], Tensor]) -> None:
    data, model = Data(), nn.Linear(INPUTS, 1)
    forward = forward_of(lambda: model(change(data.inputs[:ROWS])).square().mean())
    assert shapes_of(forward) == {(ROWS, INPUTS)}
    assert torch.equal(next(iter(forward.batch.values())), data.inputs[:ROWS])
    assert len(forward.nodes) > 3


def test_a_batch_is_kept_as_it_was_before_the_script_wrote_to_it() -> None:
    model, inputs = nn.Linear(INPUTS, 1), torch.ones(ROWS, INPUTS)

    def loss() -> Tensor:
        inputs.mul_(3)
        return model(inputs).square().mean()

    forward = forward_of(loss)
    assert torch.equal(next(iter(forward.batch.values())), torch.ones(ROWS, INPUTS))
    assert calls_of(forward)[0] == "mul_"


@pytest.mark.parametrize("cut", [Tensor.detach, lambda state: state.data], ids=["detach", "data"])
def test_a_state_that_is_carried_over_a_step_begins_a_batch(cut: Callable[[Tensor], Tensor]) -> None:
    cell, head = nn.GRU(INPUTS, 11, batch_first=True), nn.Linear(11, 1)
    optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], 0.1)
    recording, state = Recording(name="recurrent"), torch.zeros(1, 2, 11)
    with Observer(recording):
        for _ in range(3):
            states, state = cell(torch.randn(2, ROWS, INPUTS), cut(state))
            head(states).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    backwards = [event for event in recording.events if isinstance(event, Backward)]
    assert [event.reason for event in backwards] == ["", "", ""]
    for event in backwards:
        assert event.forward is not None
        assert shapes_of(event.forward) == {(2, ROWS, INPUTS), (1, 2, 11)}


def test_numbers_that_are_detached_from_a_parameter_are_the_model_s() -> None:
    model = nn.Linear(INPUTS, 1)
    forward = forward_of(lambda: (model(torch.randn(ROWS, INPUTS)) * model.weight.detach().sum()).square().mean())
    assert shapes_of(forward) == {(ROWS, INPUTS)}
    assert "detach" in calls_of(forward)


DIVIDED: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "/ 4": (lambda loss: loss / 4, 4.0),
    "* 0.25": (lambda loss: loss * 0.25, 4.0),
    "0.25 *": (lambda loss: 0.25 * loss, 4.0),
    "div": (lambda loss: loss.div(2).div(2), 4.0),
    "as it is": (lambda loss: loss, 1.0),
    "plus": (lambda loss: loss + 4, 1.0),
    "by a tensor": (lambda loss: loss / torch.tensor(4.0), 1.0),
}


@pytest.mark.parametrize(("divide", "divisor"), DIVIDED.values(), ids=DIVIDED)
def test_a_loss_is_known_before_it_was_divided(divide: Callable[[Tensor], Tensor], divisor: float) -> None:
    model = nn.Linear(INPUTS, 1)
    forward = forward_of(lambda: divide(model(torch.randn(ROWS, INPUTS)).square().mean()))
    assert forward.divisor == divisor
    assert (forward.loss == forward.undivided) == (divisor == 1.0)


def test_backward_on_a_vector_has_a_reason() -> None:
    model, recording = nn.Linear(INPUTS, 1), Recording(name="vector")
    with Observer(recording):
        model(torch.randn(ROWS, INPUTS))[:, 0].backward(torch.ones(ROWS))
    (event,) = recording.events
    assert isinstance(event, Backward)
    assert event.forward is None
    assert event.reason == "backward was called on something else than one number"


def test_a_loss_that_was_made_while_nobody_looked_has_a_reason() -> None:
    loss = nn.Linear(INPUTS, 1)(torch.randn(ROWS, INPUTS)).mean()
    assert backward_of(lambda: loss).reason == "backward was called on a tensor whose making was not seen"


def test_a_state_from_while_nobody_looked_has_a_reason() -> None:
    states = nn.Linear(INPUTS, 1)(torch.randn(ROWS, INPUTS))
    assert "a tensor with a gradient came from something that torch does not show" in backward_of(states.mean).reason


def test_many_calls_without_a_step_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "SCRIPT_NODES", 97)
    recorder = Recorder()
    with recorder:
        for _ in range(1009):
            torch.zeros(2).add(1)
            assert len(recorder.nodes) <= 97


def test_large_results_that_no_gradient_needs_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "IDLE_BYTES", 7 * 1009 * 4)
    model, recorder = nn.Linear(1009, 1009), Recorder()
    with recorder, torch.no_grad():
        for _ in range(31):
            recorder.part(model, (torch.zeros(1, 1009),), {}, nn.Module.__call__)
            assert recorder.idle_bytes <= 10 * 1009 * 4


def test_a_step_after_a_long_preparation_is_played_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "SCRIPT_NODES", 97)
    model = nn.Linear(INPUTS, 1)

    def loss() -> Tensor:
        for _ in range(1009):
            torch.zeros(2).add(1)
        return model(torch.randn(ROWS, INPUTS)).square().mean()

    assert shapes_of(forward_of(loss)) == {(ROWS, INPUTS)}


WRITING = {
    "add_": True,
    "__setitem__": True,
    "__iadd__": True,
    "zero_": True,
    "add": False,
    "__add__": False,
    "__getitem__": False,
    "__eq__": False,
}


@pytest.mark.parametrize("name", WRITING)
def test_a_function_that_writes_is_told_by_its_name(name: str) -> None:
    assert writes(getattr(Tensor, name)) == WRITING[name]


def test_random_states_are_those_of_torch_python_and_numpy() -> None:
    before, draws = Randomness.now(), []
    for _ in range(2):
        before.restore()
        draws.append((torch.rand(3).tolist(), random.random(), np.random.rand()))
    assert draws[0] == draws[1]


def test_a_pause_leaves_torch_and_comes_back_after_an_error() -> None:
    recorder = Recorder()
    with recorder:
        with suppress(ValueError), recorder.paused():
            assert _get_current_function_mode() is None
            raise ValueError
        assert _get_current_function_mode() is recorder
        assert recorder.on
    assert _get_current_function_mode() is None


def test_nothing_is_recorded_in_a_pause_under_a_mode_of_somebody_else() -> None:
    recorder = Recorder()
    with recorder, torch.device("cpu"):
        with recorder.paused():
            torch.zeros(2)
        assert recorder.nodes == []
        torch.zeros(2)
        assert len(recorder.nodes) == 1
