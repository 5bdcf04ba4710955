"""Samples taken for positions, and positions of the wrong size: in models as people write them."""

import math
from collections.abc import Callable

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    batch_coupling,
    batch_first_mismatch,
    positions_on_the_batch_axis,
    positions_swamp_the_tokens,
)
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
FAULTS = [module.FAULT for module in (batch_first_mismatch, positions_on_the_batch_axis, positions_swamp_the_tokens)]
WIDTH = 16


class Positions(nn.Module):
    """The encoding of torch's tutorial, which counts along axis 0 ("tutorial") or along time ("right")."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        place = torch.arange(50)[:, None]
        rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(10000.0) / WIDTH))
        table = torch.zeros(50, 1, WIDTH)
        table[:, 0, 0::2], table[:, 0, 1::2] = torch.sin(place * rates), torch.cos(place * rates)
        self.register_buffer("table", table)
        self.learned = nn.Embedding(50, WIDTH)

    def forward(self, x: Float[Tensor, "first second width"]) -> Float[Tensor, "first second width"]:
        if self.style == "tutorial":
            return x + self.table[: x.size(0)]
        if self.style == "learned along the batch":
            return x + self.learned(torch.arange(x.size(0)))[:, None]
        return x + self.table[: x.size(1), 0]


class Model(nn.Module):
    """Table, positions, torch's encoder, head."""

    def __init__(self, positions: str = "right", batch_first: bool = True, std: float = 1.0) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(subjects.VOCAB, WIDTH), Positions(positions)
        nn.init.normal_(self.table.weight, std=std)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 23, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.encoder(self.positions(self.table(tokens))))


class Recurrent(nn.Module):
    """A GRU that may expect the other layout."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(subjects.VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=batch_first)
        self.head = nn.Linear(WIDTH, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.gru(self.table(tokens))[0])


def subject_of(make: Callable[[], nn.Module]) -> Subject:
    return subjects.language_model("axes", make, lr=1e-3)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Model(), set()),
        (lambda: Recurrent(batch_first=True), set()),
        (lambda: Recurrent(batch_first=False), {"batch-first-mismatch"}),
        (lambda: Model(batch_first=False), {"batch-first-mismatch"}),
        (lambda: Model("tutorial"), {"positions-on-the-batch-axis"}),
        (lambda: Model("learned along the batch"), {"positions-on-the-batch-axis"}),
        (lambda: Model(std=0.02), {"positions-swamp-the-tokens"}),
        (lambda: Model(std=0.25), set()),
    ],
    ids=["right", "gru", "gru turned", "encoder turned", "tutorial", "learned", "swamped", "paper"],
)
def test_each_way_of_writing_it_is_told_apart(
    make: Callable[[], nn.Module], expected: set[str], verdict_of: Judge
) -> None:
    subject = subject_of(make)
    assert {fault.id for fault in FAULTS if verdict_of(fault, subject).status == "present"} == expected
    for fault in FAULTS:
        if fault.id in expected:
            assert verdict_of(fault, fault.remedies[0].apply(subject)).status != "present"


def test_coupled_samples_are_a_consequence_of_the_layout(verdict_of: Judge) -> None:
    subject = subject_of(lambda: Recurrent(batch_first=False))
    assert verdict_of(batch_coupling.FAULT, subject).status == "present"
    assert "batch-first-mismatch" in batch_coupling.FAULT.follows_from


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_what_is_planted_is_found_and_goes_with_the_remedy(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert fault.plant is not None
    try:
        subject = fault.plant(subjects.HEALTHY[name]())
    except ValueError as reason:
        pytest.skip(str(reason))
    assert verdict_of(fault, subject).status == "present"
    assert verdict_of(fault, fault.remedies[0].apply(subject)).status == "absent"
