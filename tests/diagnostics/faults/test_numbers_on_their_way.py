"""NaNs, gradients that vanish or explode, epsilons that outweigh variances, deep post-norm stacks."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    exploding_gradients,
    nonfinite_values,
    norm_epsilon_too_large,
    post_norm_without_warm_up,
    vanishing_gradients,
)
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
FAULTS = [
    module.FAULT
    for module in (
        exploding_gradients,
        nonfinite_values,
        norm_epsilon_too_large,
        post_norm_without_warm_up,
        vanishing_gradients,
    )
]
PLANTED = [fault for fault in FAULTS if fault.plant is not None]


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.id)
def test_what_is_planted_is_found(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert fault.plant is not None
    try:
        subject = fault.plant(subjects.HEALTHY[name]())
    except ValueError as reason:
        pytest.skip(str(reason))
    assert verdict_of(fault, subject).status == "present"
    if fault is not exploding_gradients.FAULT:  # clipping tames the step and leaves the gradient as it is
        assert all(verdict_of(fault, cure.apply(subject)).status == "absent" for cure in fault.remedies)


def classifier(make: Callable[[], nn.Module]) -> Subject:
    return replace(subjects.mlp(), build=subjects.seeded(make), model=subjects.seeded(make)(0))


def chain(layers: int, activation: Callable[[], nn.Module], std: float | None = None) -> nn.Module:
    """A perceptron of so many layers; matrices from N(0, std) where given."""
    widths = [5] + [23] * layers
    modules = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), activation())]
    model = nn.Sequential(*modules, nn.Linear(23, 3))
    for module in model if std is not None else ():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
    return model


@pytest.mark.parametrize(
    ("make", "vanishes", "explodes"),
    [
        (lambda: chain(12, nn.Sigmoid), True, False),
        (lambda: chain(12, nn.ReLU, std=0.3), False, False),
        (lambda: chain(3, nn.Sigmoid), False, False),
        (lambda: chain(12, nn.ReLU, std=2.0), False, True),
    ],
    ids=["deep sigmoids", "drawn to the width", "shallow", "drawn too large"],
)
def test_depth_alone_is_no_fault(
    make: Callable[[], nn.Module], vanishes: bool, explodes: bool, verdict_of: Judge
) -> None:
    subject = classifier(make)
    assert (verdict_of(vanishing_gradients.FAULT, subject).status == "present") == vanishes
    assert (verdict_of(exploding_gradients.FAULT, subject).status == "present") == explodes


class Root(nn.Module):
    """The root of what may be zero: finite forward, an infinite gradient."""

    def forward(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        return (x - x).abs().sqrt() + x


def test_a_finite_loss_with_an_infinite_gradient_is_found(verdict_of: Judge) -> None:
    verdict = verdict_of(nonfinite_values.FAULT, classifier(lambda: nn.Sequential(nn.Linear(5, 3), Root())))
    assert verdict.status == "present"
    assert "0.weight" in verdict.because


@pytest.mark.parametrize(("epsilon", "status"), [(1e-5, "absent"), (1e-3, "absent"), (10.0, "present")])
def test_an_epsilon_beside_the_variance(epsilon: float, status: str, verdict_of: Judge) -> None:
    subject = classifier(lambda: nn.Sequential(nn.Linear(5, 31), nn.LayerNorm(31, eps=epsilon), nn.Linear(31, 3)))
    assert verdict_of(norm_epsilon_too_large.FAULT, subject).status == status


class Deep(nn.Module):
    """Seven layers of torch's own."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(subjects.VOCAB, 14)
        layer = nn.TransformerEncoderLayer(14, 2, 19, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 7, enable_nested_tensor=False)
        self.head = nn.Linear(14, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.encoder(self.table(tokens)))


@pytest.mark.parametrize(
    ("norm_first", "rate", "schedule", "status"),
    [
        (False, 1e-3, None, "present"),
        (True, 1e-3, None, "absent"),
        (False, 1e-4, None, "absent"),
        (False, 1e-3, lambda step: min(1.0, (step + 1) / 100), "absent"),
    ],
    ids=["post-norm", "pre-norm", "low rate", "warm-up"],
)
def test_deep_post_norm_wants_a_warm_up(
    norm_first: bool, rate: float, schedule: Callable[[int], float] | None, status: str, verdict_of: Judge
) -> None:
    subject = subjects.language_model("deep", lambda: Deep(norm_first), lr=1e-3)
    subject = replace(subject, optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=rate), schedule=schedule)
    assert verdict_of(post_norm_without_warm_up.FAULT, subject).status == status
