"""What the gradient does not reach: cuts, spare parts and frozen parts, on models as people write them."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.faults import graph_cut, parameters_frozen, parameters_without_gradient
from diagnostics.subject import Subject

FAULTS = (graph_cut.FAULT, parameters_frozen.FAULT, parameters_without_gradient.FAULT)
Middle = Callable[[Float[Tensor, "batch hidden"]], Float[Tensor, "batch hidden"]]


def through_numpy(x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
    return torch.from_numpy(np.array(x.detach().numpy()))


def made_anew(x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
    return torch.tensor(x.tolist())


MIDDLES: dict[str, Middle] = {
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "numpy": through_numpy,
    "made anew": made_anew,
    "a clone of the data": lambda x: x.data.clone().requires_grad_(True),
}
HARMLESS: dict[str, Middle] = {
    "nothing": lambda x: x,
    "a shift by a detached maximum": lambda x: x - x.max(dim=-1, keepdim=True).values.detach(),
    "a straight-through rounding": lambda x: x + (x.round() - x).detach(),
    "a look for the log": lambda x: x + 0 * float(x.detach().mean()),
}


class Classifier(nn.Module):
    """Two layers, and something in the middle."""

    def __init__(self, middle: Middle, spare: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(5, 31)
        self.second = nn.Linear(31, 3)
        self.middle = middle
        if spare:
            self.pooler = nn.Linear(31, 31)

    def forward(self, points: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
        return self.second(self.middle(torch.tanh(self.first(points))))


def subject(make: Callable[[], nn.Module]) -> Subject:
    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(7):
            points = torch.randn(37, 5, generator=generator)
            yield points, (points[:, 0] > 0).long() + (points[:, 1] > 0).long()

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return make()

    return Subject(
        name="classifier",
        model=build(0),
        build=build,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches=batches,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
    )


def present(verdict_of: Callable[..., object], of: Subject) -> dict[str, str]:
    verdicts = {fault.id: verdict_of(fault, of) for fault in FAULTS}
    return {id_: v.because for id_, v in verdicts.items() if v.status == "present"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", MIDDLES)
def test_a_cut_in_the_middle_is_found_and_named(name: str, verdict_of: Callable[..., object]) -> None:
    found = present(verdict_of, subject(lambda: Classifier(MIDDLES[name])))
    assert set(found) == {"graph-cut"}
    assert "first.weight" in found["graph-cut"]


def test_the_place_of_a_cut_is_told(verdict_of: Callable[..., object]) -> None:
    assert "detach" in present(verdict_of, subject(lambda: Classifier(MIDDLES["detach"])))["graph-cut"]


@pytest.mark.parametrize("name", HARMLESS)
def test_a_detach_beside_the_path_is_fine(name: str, verdict_of: Callable[..., object]) -> None:
    assert present(verdict_of, subject(lambda: Classifier(HARMLESS[name]))) == {}


@pytest.mark.parametrize("name", ["detach", "data"])
def test_the_graph_is_kept_from_outside(name: str, verdict_of: Callable[..., object]) -> None:
    cut = subject(lambda: Classifier(MIDDLES[name]))
    assert present(verdict_of, graph_cut.FAULT.remedies[0].apply(cut)) == {}


def test_a_layer_that_is_never_called_is_a_deviation(verdict_of: Callable[..., object]) -> None:
    found = present(verdict_of, subject(lambda: Classifier(HARMLESS["nothing"], spare=True)))
    assert set(found) == {"parameters-without-gradient"}
    assert "pooler.weight" in found["parameters-without-gradient"]


def frozen_first(seed: int | None) -> Callable[[], nn.Module]:
    """A classifier with a frozen first layer, random or always the same."""

    def make() -> nn.Module:
        model = Classifier(HARMLESS["nothing"])
        if seed is not None:
            with torch.no_grad():
                model.first.weight.copy_(torch.randn(31, 5, generator=torch.Generator().manual_seed(seed)))
        model.first.weight.requires_grad_(False)
        return model

    return make


def test_random_weights_that_are_frozen_are_found_and_thawed(verdict_of: Callable[..., object]) -> None:
    frozen = subject(frozen_first(None))
    assert set(present(verdict_of, frozen)) == {"parameters-frozen"}
    assert present(verdict_of, parameters_frozen.FAULT.remedies[0].apply(frozen)) == {}


def test_weights_that_every_fresh_model_shares_may_be_pretrained(verdict_of: Callable[..., object]) -> None:
    assert present(verdict_of, subject(frozen_first(7))) == {}
    assert present(verdict_of, replace(subject(frozen_first(None)), build=None)) == {}


def test_a_model_in_which_nothing_learns_is_found(verdict_of: Callable[..., object]) -> None:
    frozen = subject(lambda: Classifier(HARMLESS["nothing"]).requires_grad_(False))
    assert set(present(verdict_of, frozen)) == {"parameters-frozen"}


def test_features_without_gradients_are_fine_where_the_optimizer_leaves_them_out(
    verdict_of: Callable[..., object],
) -> None:
    head_only = replace(
        subject(lambda: Classifier(MIDDLES["detach"])),
        optimizer=lambda model: torch.optim.AdamW(model.second.parameters(), lr=1e-2),  # type: ignore[union-attr]
    )
    assert present(verdict_of, head_only) == {}
