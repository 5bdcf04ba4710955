"""Logits that something holds in an interval or cuts off, and soft caps that do no harm."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import bounded_logits, relu_on_the_logits, softmax_before_cross_entropy
from diagnostics.interventions.unbound_logits import UNBOUND_LOGITS
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]

FAULTS = [bounded_logits.FAULT, relu_on_the_logits.FAULT]


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_and_the_remedy_cures(fault: Fault, name: str, verdict_of: Judge) -> None:
    healthy = subjects.HEALTHY[name]()
    assert verdict_of(fault, healthy).status in ("absent", "not tested")
    assert fault.plant is not None
    if name == "regression":
        with pytest.raises(ValueError, match="calls neither"):
            fault.plant(healthy)
        return
    faulty = fault.plant(healthy)
    assert [other.id for other in FAULTS if verdict_of(other, faulty).status == "present"] == [fault.id]
    assert verdict_of(fault, UNBOUND_LOGITS.apply(faulty)).status == "absent"


class Scaled(nn.Module):
    """tanh with a scale that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, scores: Tensor) -> Tensor:
        return self.scale * torch.tanh(scores)


class SoftCap(nn.Module):
    """Scores kept between -limit and limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, scores: Tensor) -> Tensor:
        return self.limit * torch.tanh(scores / self.limit)


class WithLast(subjects.GruLM):
    """A recurrent language model with something behind its head."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(super().forward(tokens))


def ending_in(last: Callable[[], nn.Module]) -> Subject:
    """The recurrent language model with this behind its head, written into the model itself."""
    return subjects.language_model("stranger", lambda: WithLast(last()), lr=1e-2)


def two_sided() -> nn.Module:
    """Scores cut at -2 and 2."""
    return nn.Hardtanh(-2.0, 2.0)


def tight_cap() -> nn.Module:
    """A soft cap that is too tight."""
    return SoftCap(2.0)


@pytest.mark.parametrize(
    ("last", "floor"),
    [
        (nn.Tanh, math.log1p(22 * math.exp(-2))),
        (nn.Sigmoid, math.log1p(22 * math.exp(-1))),
        (two_sided, math.log1p(22 * math.exp(-4))),
        (tight_cap, math.log1p(22 * math.exp(-4))),
        (nn.Softsign, math.log1p(22 * math.exp(-2))),
    ],
)
def test_squeezed_logits_are_found_with_their_floor(
    last: Callable[[], nn.Module], floor: float, verdict_of: Judge
) -> None:
    verdict = verdict_of(bounded_logits.FAULT, ending_in(last))
    assert verdict.status == "present"
    assert verdict.numbers["floor"] == pytest.approx(floor, rel=1e-3)
    assert verdict_of(relu_on_the_logits.FAULT, ending_in(last)).status == "absent"
    assert verdict_of(bounded_logits.FAULT, UNBOUND_LOGITS.apply(ending_in(last))).status == "absent"


@pytest.mark.parametrize("last", [nn.ReLU, nn.GELU, nn.Softplus, nn.ELU])
def test_logits_cut_off_below_are_found(last: Callable[[], nn.Module], verdict_of: Judge) -> None:
    found = [fault.id for fault in FAULTS if verdict_of(fault, ending_in(last)).status == "present"]
    assert found == ["relu-on-the-logits"]
    assert verdict_of(relu_on_the_logits.FAULT, UNBOUND_LOGITS.apply(ending_in(last))).status == "absent"


HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "cap at 15": lambda: SoftCap(15.0),
    "cap at 30": lambda: SoftCap(30.0),
    "learned scale": Scaled,
    "nothing": nn.Identity,
    "log-softmax": lambda: nn.LogSoftmax(-1),
    "norm": lambda: nn.LayerNorm(subjects.VOCAB),
    "leaky": lambda: nn.LeakyReLU(0.1),
    "softmax, which is a fault of its own": lambda: nn.Softmax(-1),
}


@pytest.mark.parametrize("last", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_holds_no_logit_back_raises_no_alarm(last: Callable[[], nn.Module], verdict_of: Judge) -> None:
    statuses = {fault.id: verdict_of(fault, ending_in(last)).status for fault in FAULTS}
    assert set(statuses.values()) == {"absent"}, statuses


def test_a_sigmoid_in_front_of_a_loss_written_out_is_found(verdict_of: Judge) -> None:
    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        scores = torch.sigmoid(model(tokens[:, :-1]))
        return -F.log_softmax(scores, dim=2).gather(2, tokens[:, 1:, None]).mean()

    subject = replace(subjects.torch_encoder(), loss=loss)
    assert verdict_of(bounded_logits.FAULT, subject).status == "present"
    assert verdict_of(softmax_before_cross_entropy.FAULT, subject).status == "absent"


def test_a_tied_head_is_known_by_its_table(verdict_of: Judge) -> None:
    class Tied(subjects.GruLM):
        def forward(self, tokens: Tensor) -> Tensor:
            hidden = self.gru(self.embedding(tokens))[0][..., :19]
            return torch.tanh(hidden @ self.embedding.weight.T)

    subject = subjects.language_model("tied", Tied, lr=1e-2)
    assert verdict_of(bounded_logits.FAULT, subject).status == "present"
