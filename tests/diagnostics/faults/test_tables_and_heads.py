"""Frozen tables, copies in the place of shares, and heads too large: found where written, silent elsewhere."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    frozen_embedding,
    initial_logits_too_large,
    tied_head_scale,
    tied_weights_drift_apart,
    untied_head,
)
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
FAULTS = [
    module.FAULT for module in (frozen_embedding, initial_logits_too_large, tied_head_scale, tied_weights_drift_apart)
]
WIDTH = 19


class Reader(nn.Module):
    """A recurrent model whose table, head and lookup are given."""

    def __init__(self, table: nn.Embedding, head: nn.Module, *, cut: bool = False) -> None:
        super().__init__()
        self.table, self.head, self.cut = table, head, cut
        self.gru, self.norm = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.LayerNorm(WIDTH)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        x = self.table(tokens)
        return self.head(self.norm(self.gru(x.detach() if self.cut else x)[0]))


def small_table() -> nn.Embedding:
    table = nn.Embedding(subjects.VOCAB, WIDTH)
    nn.init.normal_(table.weight, std=0.1)
    return table


def head() -> nn.Linear:
    return nn.Linear(WIDTH, subjects.VOCAB, bias=False)


def healthy() -> nn.Module:
    return Reader(small_table(), head())


def frozen() -> nn.Module:
    return Reader(nn.Embedding.from_pretrained(torch.randn(subjects.VOCAB, WIDTH)), head())


def pretrained() -> nn.Module:
    numbers = torch.randn(subjects.VOCAB, WIDTH, generator=torch.Generator().manual_seed(7))
    return Reader(nn.Embedding.from_pretrained(numbers), head())


def cut_off() -> nn.Module:
    return Reader(small_table(), head(), cut=True)


def shared() -> nn.Module:
    model = Reader(small_table(), head())
    model.head.weight = model.table.weight
    return model


def copied() -> nn.Module:
    model = Reader(small_table(), head())
    model.head.weight.data = model.table.weight.data.clone()
    return model


def shared_too_large() -> nn.Module:
    model = Reader(nn.Embedding(subjects.VOCAB, WIDTH), head())
    model.head.weight = model.table.weight
    return model


def large() -> nn.Module:
    model = healthy()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def mostly_frozen() -> nn.Module:
    model = healthy()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    return model


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (healthy, set()),
        (pretrained, set()),
        (shared, set()),
        (mostly_frozen, set()),
        (frozen, {"frozen-embedding"}),
        (cut_off, {"frozen-embedding"}),
        (copied, {"tied-weights-drift-apart"}),
        (shared_too_large, {"tied-head-scale"}),
        (large, {"initial-logits-too-large"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_way_of_writing_it_is_told_apart(
    make: Callable[[], nn.Module], expected: set[str], verdict_of: Judge
) -> None:
    subject = subjects.language_model("reader", make, lr=1e-3)
    found = {fault.id for fault in FAULTS if verdict_of(fault, subject).status == "present"}
    assert found == expected
    for fault in FAULTS:
        if fault.id in found:
            assert verdict_of(fault, fault.remedies[0].apply(subject)).status == "absent"


def test_a_table_that_may_be_pretrained_leaves_it_open(verdict_of: Judge) -> None:
    subject = subjects.language_model("pretrained", pretrained, lr=1e-3)
    assert verdict_of(frozen_embedding.FAULT, subject).status == "unclear"


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


def planted(fault: Fault, name: str) -> Subject:
    assert fault.plant is not None
    try:
        return fault.plant(subjects.HEALTHY[name]())
    except ValueError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_what_is_planted_is_found_and_goes_with_the_remedy(fault: Fault, name: str, verdict_of: Judge) -> None:
    subject = planted(fault, name)
    assert verdict_of(fault, subject).status == "present"
    assert verdict_of(fault, fault.remedies[0].apply(subject)).status == "absent"


def test_a_head_of_other_numbers_is_no_copy(verdict_of: Judge) -> None:
    subject = planted(untied_head.FAULT, "gpt2")
    assert verdict_of(untied_head.FAULT, subject).status == "present"
    assert verdict_of(tied_weights_drift_apart.FAULT, subject).status == "absent"


def test_a_head_that_reads_the_table_itself_is_shared(verdict_of: Judge) -> None:
    class Functional(Reader):
        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            return F.linear(self.norm(self.gru(self.table(tokens))[0]), self.table.weight)

    subject = subjects.language_model("functional", lambda: Functional(small_table(), nn.Identity()), lr=1e-3)
    assert verdict_of(tied_weights_drift_apart.FAULT, subject).status == "absent"
