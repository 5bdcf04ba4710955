import math

import pytest
import torch

from experiments.config import OptimConfig, RunConfig, override
from experiments.recipes import base
from experiments.schedule import LOWEST_COSINE_FACTOR, cosine, noam, schedule, warmup


def test_noam_is_the_formula_of_the_paper() -> None:
    for n in (1, 7, 3999, 4000, 4001, 100_000):
        expected = 1 / math.sqrt(512) * min(1 / math.sqrt(n), n / 4000**1.5)
        assert noam(n - 1, d_model=512, warmup_steps=4000) == pytest.approx(expected, rel=1e-12)


def test_noam_peaks_at_the_last_step_of_its_warm_up() -> None:
    factor = schedule(base(), total_steps=100_000)
    steps = range(3900, 4100)
    assert max(steps, key=factor) == 3999
    assert factor(3999) == pytest.approx((512 * 4000) ** -0.5)


def test_warm_up_is_a_straight_line_that_reaches_one() -> None:
    assert [warmup(step, warmup_steps=5) for step in range(7)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    assert warmup(0, warmup_steps=0) == 1.0


def test_cosine_agrees_with_torchs_own_after_the_warm_up() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12, eta_min=LOWEST_COSINE_FACTOR)
    for step in range(5, 18):
        assert cosine(step, warmup_steps=5, total_steps=18) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_cosine_stays_at_its_end() -> None:
    assert cosine(1000, warmup_steps=5, total_steps=18) == pytest.approx(LOWEST_COSINE_FACTOR)


@pytest.mark.parametrize("name", ["noam", "cosine", "constant"])
def test_every_schedule_gives_positive_factors_at_every_step(name: str) -> None:
    config = override(RunConfig(optim=OptimConfig(warmup_steps=3)), {"optim.schedule": name})
    factor = schedule(config, total_steps=11)
    assert all(0 < factor(step) <= 1 for step in range(11))


def test_constant_without_warm_up_is_one_from_the_first_step() -> None:
    config = override(RunConfig(), {"optim.schedule": "constant", "optim.warmup_steps": 0})
    assert {schedule(config, total_steps=11)(step) for step in range(11)} == {1.0}
