"""Private copies: no number shared, and where there can be no copy, everything put back by value."""

import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics import copies
from diagnostics.bench import open_bench
from diagnostics.copies import model_copy, private_model, restored
from diagnostics.subject import Subject
from tests import subjects


class Remembers(nn.Module):
    """Keeps the last activations (inside their graph), a lock, a generator of numbers and a table of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3)
        self.frozen = nn.Parameter(torch.ones(2, 3), requires_grad=False)
        self.register_buffer("steps", torch.zeros(1))
        self.table = torch.arange(3.0)
        self.lock = threading.Lock()
        self.noise = torch.Generator().manual_seed(3)
        self.cache: dict[str, list[Tensor]] = {}

    def forward(self, points: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
        with self.lock:
            hidden = self.first(points)
            self.cache["hidden"] = [hidden]
            self.steps += 1
            return self.second(hidden) + self.table + torch.rand(3, generator=self.noise)


class Refuses(Remembers):
    """Cannot be copied, whatever one does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Refuses":
        raise TypeError("there can be only one")


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that must be as it was, by value."""
    numbers = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {f"{name}.grad": None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes = {f"{name}.training": module.training for name, module in model.named_modules()}
    wants = {f"{name}.requires_grad": p.requires_grad for name, p in model.named_parameters()}
    return numbers | grads | modes | wants | {"attributes": sorted(vars(model)), "dtype": str(model.state_dict())}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states are equal, number by number."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        for key, value in one.items()
    )


def used(model: nn.Module) -> nn.Module:
    """The model after a forward and a backward pass, in a mixed mode."""
    model(torch.ones(2, 5)).sum().backward()
    model.get_submodule("first").eval()
    return model


def ruin(model: nn.Module) -> None:
    """What probes do, all at once."""
    model.eval().double().requires_grad_(True)
    for parameter in model.parameters():
        parameter.data.mul_(7)
        parameter.grad = torch.ones_like(parameter)
    model.cache["more"] = []  # type: ignore[index, union-attr, operator]
    model.table.add_(1)  # type: ignore[union-attr, operator]
    model.added = 3  # type: ignore[assignment]
    model.first.weight = nn.Parameter(torch.zeros(7, 5))  # type: ignore[union-attr]
    model.register_forward_hook(lambda *_: None)


def test_a_model_with_a_cache_a_lock_and_a_generator_is_copied() -> None:
    model = used(Remembers())
    noise = model.noise.get_state()  # type: ignore[union-attr, operator]
    twin = model_copy(model)
    ruin(twin)
    assert twin.lock is model.lock
    assert torch.equal(model.noise.get_state(), noise)  # type: ignore[union-attr, operator]
    assert torch.equal(model.table, torch.arange(3.0))  # type: ignore[arg-type]
    assert model.cache["hidden"][0].requires_grad  # type: ignore[index, union-attr]
    assert same(state(model), state(used(type(model)()))) is False
    assert not model.first.weight.eq(0).all()  # type: ignore[union-attr]


def test_a_weight_normalised_model_is_copied_after_a_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.utils.weight_norm(nn.Linear(5, 3))
    expected = model(torch.ones(2, 5))
    with pytest.raises(RuntimeError):
        __import__("copy").deepcopy(model)
    assert torch.equal(model_copy(model)(torch.ones(2, 5)), expected)


def test_parameters_over_the_same_memory_stay_so_in_the_copy() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight.data = model[0].weight.data
    twin = model_copy(model)
    assert twin[0].weight.data_ptr() == twin[1].weight.data_ptr() != model[0].weight.data_ptr()  # type: ignore[index]


def test_what_refuses_to_be_copied_is_lent_and_put_back() -> None:
    model = used(Refuses())
    before = state(model)
    with private_model(model) as lent:
        assert lent is model
        ruin(lent)
        assert not same(state(model), before)
    assert same(state(model), before)
    assert list(model.cache) == ["hidden"]  # type: ignore[arg-type]
    assert torch.equal(model.table, torch.arange(3.0))  # type: ignore[arg-type]
    assert not model._forward_hooks


def ruin_and_fail(model: nn.Module) -> None:
    with private_model(model) as lent:
        ruin(lent)
        raise RuntimeError("of the probe's own")


@pytest.mark.parametrize("kind", [Remembers, Refuses])
def test_it_is_put_back_also_when_the_probe_raises(kind: Callable[[], nn.Module]) -> None:
    model = used(kind())
    before = state(model)
    with pytest.raises(RuntimeError, match="of the probe's own"):
        ruin_and_fail(model)
    assert same(state(model), before)


def test_a_model_that_does_not_fit_again_waits_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model = used(Remembers())
    before = state(model)
    monkeypatch.setattr(copies, "free_memory", lambda device: 100.0)
    with pytest.raises(ValueError, match="does not fit into half of the free memory"):
        model_copy(model)
    with private_model(model) as lent:
        assert lent is model
        ruin(lent)
    assert same(state(model), before)


def test_a_handle_of_the_users_own_hook_still_removes_it() -> None:
    model = nn.Linear(5, 3)
    handle = model.register_forward_hook(lambda *_: None)
    with restored(model):
        model._forward_hooks.clear()
    handle.remove()
    assert not model._forward_hooks


def lent_subject() -> Subject:
    """A classifier that cannot be copied."""

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        yield torch.randn(11, 5, generator=generator), torch.randint(3, (11,), generator=generator)

    return replace(
        subjects.mlp(), model=used(Refuses()), build=None, batches=batches, heldout=None, name="there is only one"
    )


def test_a_bench_lends_it_and_puts_it_back() -> None:
    subject = lent_subject()
    before = state(subject.model)
    with open_bench(subject, 0) as bench:
        bench.train(bench.one_batch(), 3)
        assert not same(state(subject.model), before)
        assert same(state(bench.standing_model()), before)
    assert same(state(subject.model), before)


def test_a_bench_trains_a_copy_where_there_can_be_one() -> None:
    subject = replace(lent_subject(), model=used(Remembers()))
    before = state(subject.model)
    with open_bench(subject, 0) as bench:
        bench.train(bench.one_batch(), 3)
        assert same(state(subject.model), before)
    assert same(state(subject.model), before)


def test_a_subject_says_why_it_lacks_something() -> None:
    subject = replace(lent_subject(), lacks={"token_view": "its logits have 2 axes"})
    assert subject.missing(["token_view"]) == "this subject has no token view: its logits have 2 axes"
