"""parameters: what a model hides is found by the graph and by its attributes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.probes.parameters import Parameters, parameters, unregistered
from diagnostics.subject import Subject
from tests import subjects


class Hiding(nn.Module):
    """A classifier that keeps some of its parts where torch does not look."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.plain_list = [nn.Linear(7, 7)]
        self.plain_dict = {"last": (nn.Linear(7, 3, bias=False),)}
        self.shift = torch.randn(7)
        self.unused = torch.randn(11)
        self.hidden_number = torch.tensor(2.0)

    def forward(self, points: Tensor) -> Tensor:
        hidden = self.plain_list[0](self.first(points) + self.shift) * self.hidden_number
        return self.plain_dict["last"][0](hidden)


def hiding() -> Subject:
    build: Callable[[int], nn.Module] = subjects.seeded(Hiding)
    return replace(subjects.mlp(), model=build(0), build=build)


def found_in(subject: Subject) -> Parameters:
    with open_bench(subject, 0) as bench:
        return parameters(bench)


def test_modules_in_lists_and_dicts_are_lost_and_named() -> None:
    found = found_in(hiding())
    assert sorted(found.lost) == ["plain_dict['last'][0].weight", "plain_list[0].bias", "plain_list[0].weight"]
    assert found.lost_elements == 7 * 3 + 7 + 7 * 7
    assert found.registered == 2


def test_constant_tensors_count_where_they_are_used_and_hold_more_than_a_number() -> None:
    assert found_in(hiding()).plain == ("shift",)


def test_a_tensor_that_shares_a_buffers_storage_is_registered() -> None:
    model = nn.Linear(2, 3)
    model.register_buffer("table", torch.randn(5))
    model.view = model.get_buffer("table")[:3]
    assert unregistered(model) == {}


def test_frozen_and_left_out_and_foreign_parameters_are_told_apart() -> None:
    subject = subjects.mlp()
    assert subject.build is not None
    build, stray = subject.build, nn.Parameter(torch.zeros(2))

    def frozen(seed: int) -> nn.Module:
        model = build(seed)
        model.get_parameter("0.bias").requires_grad_(False)
        return model

    def some(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([stray, *(p for name, p in model.named_parameters() if name != "3.weight")], lr=0.1)

    found = found_in(replace(subject, build=frozen, optimizer=some))
    assert found.frozen == ("0.bias",)
    assert found.not_in_optimizer == ("3.weight",)
    assert found.not_in_optimizer_elements == 3 * 31
    assert found.foreign == 1


def test_what_the_loss_does_not_use_has_no_gradient() -> None:
    subject = subjects.mlp()

    def only_first(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model.get_submodule("0")(batch[0])[:, :3], batch[1])

    assert found_in(replace(subject, loss=only_first)).without_gradient == (
        "1.weight", "1.bias", "3.weight", "3.bias",
    )  # fmt: skip


def test_tied_weights_count_once() -> None:
    tied, untied = found_in(subjects.encoder_decoder()), found_in(subjects.encoder_decoder(untied_head=True))
    assert untied.trainable_elements - tied.trainable_elements == subjects.VOCAB * 16 + subjects.VOCAB


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_healthy_subject_hides_nothing(name: str) -> None:
    found = found_in(subjects.HEALTHY[name]())
    assert (found.lost, found.not_in_optimizer, found.plain, found.without_gradient, found.foreign) == (
        (),
        (),
        (),
        (),
        0,
    )
