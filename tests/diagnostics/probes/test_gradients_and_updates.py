"""gradient-norms and update-ratios against gradients that can be worked out."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.probes.gradient_norms import STEPS, GradientNorms, gradient_norms
from diagnostics.probes.update_ratios import update_ratios
from diagnostics.subject import Subject
from tests import subjects


class Sum(nn.Module):
    """The sum of some weights; others are there and unused, or used without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Parameter(torch.full((2, 3), 2.0))
        self.unused = nn.Parameter(torch.ones(5))
        self.idle = nn.Parameter(torch.ones(7))

    def forward(self) -> torch.Tensor:
        return self.used.sum() + 0 * self.idle.sum()


def summed(lr: float = 0.5) -> Subject:
    return Subject(
        model=Sum(),
        loss=lambda model, batch: model(),
        batches=lambda seed: iter([None] * STEPS),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=lr),
    )


def norms_of(subject: Subject) -> GradientNorms:
    with open_bench(subject, 0) as bench:
        return gradient_norms(bench)


def test_the_gradient_of_a_sum_is_one_everywhere() -> None:
    found = norms_of(summed())
    assert dict(found.first)["used"] == pytest.approx(math.sqrt(6))
    assert found.missing == ("unused",)
    assert found.zero == ("idle",)
    assert found.nonfinite == ()
    assert found.modules == (("", 18),)
    assert [length for (length,) in found.over_steps] == pytest.approx([math.sqrt(6)] * STEPS)


def test_the_first_module_with_an_infinite_output_is_named() -> None:
    subject = subjects.mlp()

    def breaks(seed: int) -> nn.Module:
        assert subject.build is not None
        model = subject.build(seed)
        with torch.no_grad():
            model.get_parameter("1.weight").fill_(math.inf)
        return model

    found = norms_of(replace(subject, build=breaks))
    assert found.first_nonfinite == "1"
    assert "0.weight" in found.nonfinite


def test_a_plain_step_moves_by_rate_times_gradient() -> None:
    with open_bench(summed(lr=0.01), 0) as bench:
        found = update_ratios(bench)
    (used,) = found.matrices
    assert used.name == "used"
    assert found.first == used.first == pytest.approx(0.01 / 2, rel=1e-5)
    assert used.median > used.first  # the same step on smaller weights
    assert {ratio.name: ratio.first for ratio in found.vectors} == {"unused": 0, "idle": 0}


def test_every_module_of_a_healthy_model_gets_a_gradient() -> None:
    found = norms_of(subjects.encoder_decoder())
    assert (found.missing, found.zero, found.nonfinite, found.first_nonfinite) == ((), (), (), None)
    assert min(min(step) for step in found.over_steps) > 0
    assert len(found.over_steps) == len(found.losses) == STEPS
