"""Constant matrices, unscaled data, dropout, dead ReLUs: fire where planted, are silent elsewhere, can be removed."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import constant_initialisation, dead_relus, dropout_too_high, inputs_not_scaled, target_scale
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
FAULTS = [
    module.FAULT for module in (constant_initialisation, dead_relus, dropout_too_high, inputs_not_scaled, target_scale)
]


def planted(fault: Fault, name: str) -> Subject:
    """The healthy subject with the fault, or a skip that says why not."""
    assert fault.plant is not None
    try:
        return fault.plant(subjects.HEALTHY[name]())
    except ValueError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_what_is_planted_is_found_and_goes_with_the_remedy(fault: Fault, name: str, verdict_of: Judge) -> None:
    subject = planted(fault, name)
    assert verdict_of(fault, subject).status == "present"
    assert verdict_of(fault, fault.remedies[0].apply(subject)).status in ("absent", "not tested")


def classifier(make: Callable[[], nn.Module], scale: float = 1.0) -> Subject:
    """A classifier of points of five coordinates without any norm."""
    return rescaled(replace(subjects.mlp(), build=subjects.seeded(make), model=subjects.seeded(make)(0)), scale)


def rescaled(subject: Subject, scale: float) -> Subject:
    """The subject with inputs from 0 to about ``scale``."""

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        for points, labels in subject.batches(seed):
            yield points.sigmoid() * scale, labels

    return replace(subject, batches=batches)


class Residual(nn.Module):
    """A classifier with a residual branch, some of whose matrices start at zero."""

    def __init__(self, zero: tuple[str, ...]) -> None:
        super().__init__()
        self.first, self.inner, self.outer = nn.Linear(5, 11), nn.Linear(11, 11), nn.Linear(11, 11)
        self.head = nn.Linear(11, 3)
        for name in zero:
            nn.init.zeros_(self.get_submodule(name).weight)
            nn.init.zeros_(self.get_submodule(name).bias)

    def forward(self, x: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
        x = self.first(x)
        return self.head(x + self.outer(F.relu(self.inner(x))))


@pytest.mark.parametrize("zero", [("head",), ("outer",), ("outer", "head")])
def test_a_zero_head_or_last_projection_is_healthy(zero: tuple[str, ...], verdict_of: Judge) -> None:
    subject = classifier(lambda: Residual(zero))
    assert verdict_of(constant_initialisation.FAULT, subject).status == "absent"


@pytest.mark.parametrize("zero", [("inner", "outer"), ("first", "inner", "outer", "head")])
def test_zeros_before_and_behind_never_move(zero: tuple[str, ...], verdict_of: Judge) -> None:
    verdict = verdict_of(constant_initialisation.FAULT, classifier(lambda: Residual(zero)))
    assert verdict.status == "present"
    assert "exactly zero" in verdict.because


def low_rank() -> nn.Module:
    """A frozen layer with a trainable product of a random and a zero matrix beside it."""

    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base, self.down, self.up = nn.Linear(5, 3), nn.Linear(5, 2, bias=False), nn.Linear(2, 3, bias=False)
            self.base.requires_grad_(False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
            return self.base(x) + self.up(self.down(x))

    return LowRank()


def test_a_low_rank_factor_of_zeros_is_healthy(verdict_of: Judge) -> None:
    assert verdict_of(constant_initialisation.FAULT, classifier(low_rank)).status == "absent"


@pytest.mark.parametrize(("scale", "status"), [(1.0, "absent"), (255.0, "present"), (0.001, "present")])
def test_pixels_are_found_unless_they_are_divided(scale: float, status: str, verdict_of: Judge) -> None:
    subject = classifier(lambda: nn.Sequential(nn.Linear(5, 31), nn.ReLU(), nn.Linear(31, 3)), scale)
    assert verdict_of(inputs_not_scaled.FAULT, subject).status == status


def test_pixels_that_are_normalised_first_are_healthy(verdict_of: Judge) -> None:
    subject = classifier(lambda: nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)), 255.0)
    assert verdict_of(inputs_not_scaled.FAULT, subject).status == "not tested"


def test_targets_of_a_loss_written_by_hand_are_seen(verdict_of: Judge) -> None:
    subject = subjects.regression()
    large = replace(subject, loss=lambda model, batch: ((model(batch[0]) - (70 * batch[1] + 300)) ** 2).mean())
    assert verdict_of(target_scale.FAULT, large).status == "present"
    assert verdict_of(target_scale.FAULT, target_scale.FAULT.remedies[0].apply(large)).status == "absent"
    small = replace(subject, loss=lambda model, batch: ((batch[1] - model(batch[0])) ** 2).mean())
    assert verdict_of(target_scale.FAULT, small).status == "absent"


@pytest.mark.parametrize(("rate", "status"), [(0.5, "absent"), (0.9, "present")])
def test_half_is_customary_in_a_perceptron(rate: float, status: str, verdict_of: Judge) -> None:
    subject = classifier(lambda: nn.Sequential(nn.Linear(5, 31), nn.ReLU(), nn.Dropout(rate), nn.Linear(31, 3)))
    assert verdict_of(dropout_too_high.FAULT, subject).status == status


def test_units_pushed_far_below_zero_are_dead(verdict_of: Judge) -> None:
    def make(bias: float) -> nn.Module:
        model = nn.Sequential(nn.Linear(5, 31), nn.ReLU(), nn.Linear(31, 3))
        nn.init.constant_(model[0].bias, bias)
        return model

    assert verdict_of(dead_relus.FAULT, classifier(lambda: make(-10.0))).status == "present"
    assert verdict_of(dead_relus.FAULT, classifier(lambda: make(0.0))).status == "absent"


def test_the_fast_path_is_left_as_it_was(verdict_of: Judge) -> None:
    was = torch.backends.mha.get_fastpath_enabled()
    verdict_of(dead_relus.FAULT, subjects.torch_encoder())
    assert torch.backends.mha.get_fastpath_enabled() == was
