"""Playing a tape gives the script's loss to the last digit, on its own batch and on edited ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.utils import ModelOutput

from diagnostics.capture.recording import Recording
from diagnostics.capture.replica import Replica, replica_of
from diagnostics.capture.tape import Given, Node, Parts, Result, Surroundings, Tape, fitted
from diagnostics.model_call import call_arguments, edited_arguments
from tests.diagnostics.capture.loops import ROWS, TIME, VOCAB, WIDTH, OwnLoss, TakesDict, Tied, Tokens, entropy
from tests.diagnostics.capture.training import watched

LossOf = Callable[[Any, Tensor, Tensor], Tensor]


def batches(steps: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    """Token tables, each drawn anew."""
    for _ in range(steps):
        table = torch.randint(1, VOCAB, (ROWS, TIME + 1))
        yield table[:, :-1], table[:, 1:]


def seen(model: nn.Module, loss_of: LossOf, parameters: Any = None) -> tuple[Recording, list[Tensor]]:
    """A few watched steps at a rate of zero, so that every loss can be had again from the model as it stands."""
    optimizer = torch.optim.SGD(model.parameters() if parameters is None else parameters, lr=0.0)
    losses = []
    with watched() as recording:
        for x, y in batches():
            optimizer.zero_grad()
            loss = loss_of(model, x, y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return recording, losses


def played(model: nn.Module, loss_of: LossOf) -> tuple[Replica, list[Tensor]]:
    """The recording by names, and its losses, which must come out the same when they are played."""
    recording, losses = seen(model, loss_of)
    replica = replica_of(recording)
    again = [batch.tape.play(replica.model, batch).detach() for batch in replica.batches]
    assert len(again) == len(losses)
    assert all(torch.equal(one, other) for one, other in zip(again, losses, strict=True))
    return replica, losses


@dataclass
class Answer:
    """A dataclass that a model returns."""

    logits: Tensor
    extra: None = None


class ReturnsDataclass(Tokens):
    def forward(self, tokens: Tensor) -> Any:
        return Answer(super().forward(tokens))


@dataclass
class HuggingFaceOutput(ModelOutput):
    loss: Tensor | None = None
    logits: Tensor | None = None


class ReturnsModelOutput(Tokens):
    def forward(self, *, tokens: Tensor, labels: Tensor) -> Any:
        logits = super().forward(tokens)
        return HuggingFaceOutput(loss=entropy(logits, labels), logits=logits)


class ReturnsTuple(Tokens):
    def forward(self, tokens: Tensor) -> Any:
        return super().forward(tokens), [tokens, {"twice": tokens * 2}]


def masked(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """A mask that is made of the tokens stays between the batch and the loss."""
    each = F.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
    kept = (y != 3).float()
    return (each * kept).sum() / kept.sum()


def written_out(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).view(ROWS * TIME, VOCAB), y.reshape(ROWS * TIME))


def in_place(model: Any, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x).clone()
    logits[:, :, 0] = -7.0
    logits.masked_fill_((x == 5).unsqueeze(-1), 0.5)
    view = logits[:, 2]
    view.mul_(0.5)
    return entropy(logits, y)


def begun(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """A column of BOS before the tokens, as a Transformer's decoder wants it."""
    return entropy(model(torch.cat([torch.zeros(len(x), 1, dtype=torch.long), x[:, :-1]], dim=1)), y)


def filled(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """The same in place, as Hugging Face's models do it."""
    shifted = torch.zeros_like(x)
    shifted[:, 1:] = x[:, :-1].clone()
    return entropy(model(shifted), y)


def under_autocast(model: Any, x: Tensor, y: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(x)
    return entropy(logits.float(), y)


def with_teacher(model: Any, x: Tensor, y: Tensor) -> Tensor:
    """What is computed without gradients is no batch, but part of the tape."""
    with torch.no_grad():
        wanted = model.encode(x).softmax(-1)
    return F.kl_div(model.encode(x).mul(0.5).log_softmax(-1), wanted, reduction="batchmean") + entropy(model(x), y)


def with_penalty(model: Any, x: Tensor, y: Tensor) -> Tensor:
    states = model.encode(x)
    (gradient,) = torch.autograd.grad(states.square().sum(), states, create_graph=True)
    return entropy(model.head(states), y) + gradient.square().mean()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * 2


CASES: dict[str, tuple[Callable[[], nn.Module], LossOf]] = {
    "a mask of the tokens": (Tokens, masked),
    "sizes written out": (Tokens, written_out),
    "edits in place and of views": (Tokens, in_place),
    "a column before the tokens": (Tokens, begun),
    "a column before the tokens, in place": (Tokens, filled),
    "autocast": (Tokens, under_autocast),
    "a teacher without gradients": (Tokens, with_teacher),
    "a gradient penalty": (Tokens, with_penalty),
    "a function with its own backward": (Tokens, lambda m, x, y: entropy(Doubled.apply(m(x)), y)),
    "a tied head used outside": (Tied, lambda m, x, y: entropy(m.encode(x) @ m.embedding.weight.T, y)),
    "a buffer used outside": (Tied, lambda m, x, y: entropy(m(x) + m.prior, y)),
    "a dict in and out": (TakesDict, lambda m, x, y: entropy(m({"x": x})["logits"], y)),
    "a dataclass": (ReturnsDataclass, lambda m, x, y: entropy(m(x).logits, y)),
    "keywords and a model output": (ReturnsModelOutput, lambda m, x, y: m(tokens=x, labels=y).loss),
    "an output by its place": (ReturnsModelOutput, lambda m, x, y: m(tokens=x, labels=y)[0]),
    "a tuple of a list of a dict": (ReturnsTuple, lambda m, x, y: entropy(m(x)[0], m(y)[1][1]["twice"] // 2)),
    "the model's own loss": (OwnLoss, lambda m, x, y: m(x, labels=y).loss),
    "methods": (Tokens, lambda m, x, y: entropy(m.head(m.encode(x)), y)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_tape_gives_the_loss_of_the_script_to_the_last_digit(case: str) -> None:
    made, loss_of = CASES[case]
    model = made()
    replica, _ = played(model, loss_of)
    assert replica.model is model


@pytest.mark.parametrize("case", CASES)
def test_a_tape_gives_the_same_gradients_and_leaves_its_batch_alone(case: str) -> None:
    made, loss_of = CASES[case]
    model = made()
    replica, _ = played(model, loss_of)
    ours = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    batch = replica.batches[-1]
    before = {name: tensor.clone() for name, tensor in batch.items()}
    model.zero_grad()
    batch.tape.play(model, batch).backward()
    again = [p.grad for p in model.parameters()]
    assert all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(ours, again, strict=True))
    assert all(torch.equal(batch[name], before[name]) for name in before)


def table_of(replica: Replica) -> tuple[str, Tensor]:
    """The one tensor of the first batch: inputs and targets are cut out of it on the tape."""
    ((name, table),) = replica.batches[0].items()
    assert table.shape == (ROWS, TIME + 1)
    return name, table


@pytest.mark.parametrize("loss_of", [masked, begun], ids=["mask", "shift"])
def test_masks_and_shifts_move_with_the_tokens_that_they_are_made_of(loss_of: LossOf) -> None:
    replica, losses = played(Tokens(), loss_of)
    name, table = table_of(replica)
    edited = table.clone()
    edited[:, ::2] = 3
    loss = replica.batches[0].tape.play(replica.model, {name: edited})
    assert torch.equal(loss, loss_of(replica.model, edited[:, :-1], edited[:, 1:]))
    assert not torch.equal(loss, losses[0])


@pytest.mark.parametrize("rows", [1, 2])
def test_sizes_that_were_written_out_fit_fewer_rows(rows: int) -> None:
    replica, _ = played(Tokens(), written_out)
    name, table = table_of(replica)
    fewer = table[:rows]
    loss = replica.batches[0].tape.play(replica.model, {name: fewer})
    assert torch.equal(loss, entropy(replica.model(fewer[:, :-1]), fewer[:, 1:]))


def parts_replica() -> tuple[Replica, nn.Module, nn.Module]:
    """Two modules that lie in no model, called one after the other."""
    body, head = nn.Sequential(nn.Embedding(VOCAB, WIDTH), nn.Tanh()), nn.Linear(WIDTH, VOCAB)
    parameters = [*body.parameters(), *head.parameters()]
    recording, losses = seen(nn.Identity(), lambda _, x, y: entropy(head(body(x)), y), parameters)
    replica = replica_of(recording)
    assert isinstance(replica.model, Parts)
    assert [batch.tape.play(replica.model, batch).item() for batch in replica.batches] == [
        each.item() for each in losses
    ]
    return replica, body, head


def test_modules_that_lie_in_no_model_are_called_as_one() -> None:
    replica, _, _ = parts_replica()
    batch, calls = replica.batches[0], list[int]()
    with replica.model.register_forward_hook(lambda *_: calls.append(1)):
        batch.tape.play(replica.model, batch)
    assert calls == [1]


def test_parts_are_told_by_the_names_of_their_classes_in_order() -> None:
    replica, _, _ = parts_replica()
    places = list[int]()
    batch = replica.batches[0]
    batch.tape.play(replica.model, batch, places.append)
    assert batch.tape.parts() == ("sequential", "linear")
    assert [batch.tape.nodes[place].call for place in places] == ["sequential", "linear"]


def test_the_arguments_of_parts_are_the_tensors_of_the_batch() -> None:
    replica, _, _ = parts_replica()
    batch = replica.batches[0]
    found = call_arguments(replica.model, lambda: batch.tape.play(replica.model, batch))
    assert found.keys() == batch.keys()
    assert all(torch.equal(found[name], batch[name]) for name in batch)


def test_edited_arguments_of_parts_change_what_they_compute_and_not_what_the_loss_is_compared_with() -> None:
    replica, body, head = parts_replica()
    _, table = table_of(replica)
    batch, edited = replica.batches[0], torch.full((ROWS, TIME + 1), 2)
    with edited_arguments(replica.model, lambda name, tensor: edited):
        loss = batch.tape.play(replica.model, batch)
    assert torch.equal(loss, entropy(head(body(edited[:, :-1])), table[:, 1:]))


FITTED = {
    (24, (12, 4)): (-1, 4),
    (24, ((12, 4),)): (-1, 4),
    (41, (3, 7, 11)): (3, 7, 11),
    (77, (3, 7, 11)): (-1, 7, 11),
    (66, (3, 7, 11)): (3, -1, 11),
    (42, (-1, 7)): (-1, 7),
    (42, (6, 7)): (6, 7),
    (42, (torch.int64,)): (torch.int64,),
    (0, (0, 7)): (0, 7),
}


@pytest.mark.parametrize(("numel", "sizes"), FITTED)
def test_the_first_size_that_can_gives_way(numel: int, sizes: tuple[Any, ...]) -> None:
    assert fitted(numel, sizes) == FITTED[numel, sizes]


@given(st.lists(st.sampled_from([1, 2, 3, 5, 7]), min_size=1, max_size=4), st.sampled_from([1, 2, 3, 5]))
def test_fitted_sizes_hold_any_number_of_rows(rest: list[int], rows: int) -> None:
    """All axes after the first stay; the first one takes up what there is."""
    tensor = torch.zeros(rows, *rest)
    assert tensor.reshape(*fitted(tensor.numel(), (11, *rest))).shape == tensor.shape


def test_gradients_are_never_switched_on_where_the_caller_has_none() -> None:
    with torch.no_grad(), Surroundings(grad=True).entered():
        assert not torch.is_grad_enabled()


def test_surroundings_are_entered_and_left() -> None:
    with Surroundings(grad=False, autocast=(("cpu", torch.bfloat16),)).entered():
        assert not torch.is_grad_enabled()
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_a_node_before_a_result_is_needed_where_it_edits_it() -> None:
    """loss = (x * 2).sum() after x * 2 was edited in place; the last node is of no use to it."""
    nodes = (
        Node(call=torch.mul, args=(Given("x"), 2), kwargs={}),
        Node(call=Tensor.add_, args=(Result(0), 1), kwargs={}, edits=True),
        Node(call=torch.sum, args=(Result(0),), kwargs={}),
        Node(call=torch.neg, args=(Given("x"),), kwargs={}),
    )
    tape = Tape(nodes=nodes, loss=Result(2))
    assert tape.before(2) == [0, 1, 2]
    assert tape.before(3) == [3]
    assert tape.play(nn.Identity(), {"x": torch.ones(7)}).item() == 7 * 3


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "halved": lambda t: t / 2,
    "transposed and back": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "reversed": lambda t: t.flip(1),
    "shifted": lambda t: torch.cat([torch.zeros_like(t[:, :1]), t[:, :-1]], dim=1),
    "masked": lambda t: t.masked_fill(t.detach() > 0.5, 0.0),
    "masked in place": lambda t: t.clone().masked_fill_(t.detach() < -0.5, 0.25),
    "a view edited": lambda t: edited_view(t.clone()),
    "chunks swapped": lambda t: torch.cat(tuple(reversed(t.split(4, dim=1))), dim=1),
    "chosen": lambda t: torch.where(t.detach().abs() < 1, t, t * 0.5),
    "summed up": lambda t: t.cumsum(1),
    "scaled by its norm": lambda t: t / (1 + t.norm(dim=-1, keepdim=True)),
}


def edited_view(tensor: Tensor) -> Tensor:
    view = tensor[:, 1:3]
    view *= 0.5
    tensor[:, 0] = 1.0
    return tensor


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(UNARY)), max_size=6), st.lists(st.sampled_from(sorted(UNARY)), max_size=3))
def test_any_chain_of_operations_between_batch_and_loss_is_played_to_the_last_digit(
    behind: list[str], before: list[str]
) -> None:
    """On what the model gives, and on what it is given."""
    model = nn.Linear(WIDTH, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    losses = []
    with watched() as recording:
        for _ in range(2):
            x = torch.randn(ROWS, TIME, WIDTH)
            given = x
            for name in before:
                given = UNARY[name](given)
            states = model(given)
            for name in behind:
                states = UNARY[name](states)
            optimizer.zero_grad()
            loss = F.mse_loss(states, x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    replica = replica_of(recording)
    assert [batch.tape.play(model, batch).item() for batch in replica.batches] == losses
