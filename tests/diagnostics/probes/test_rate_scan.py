"""rate-scan on a parabola and on a small classifier."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.probes.rate_scan import FACTORS, STEPS, RateScan, rate_scan
from diagnostics.subject import Subject
from tests import subjects


def scan_of(subject: Subject) -> RateScan:
    with open_bench(subject, 0) as bench:
        return rate_scan(bench)


def parabola(lr: float) -> Subject:
    """Loss w^2 / 2 per entry from w = 1: each step multiplies w by 1 - lr."""

    class Weight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2, 3))

    return Subject(
        model=Weight(),
        loss=lambda model, batch: model.get_parameter("w").square().sum() / 2,
        batches=lambda seed: iter([None] * STEPS),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=lr),
    )


def test_a_parabola_falls_as_it_must() -> None:
    scan = scan_of(parabola(0.01))
    assert scan.start == pytest.approx(3)
    assert scan.at(0.1).losses[-1] == pytest.approx(3 * (1 - 0.001) ** (2 * (STEPS - 1)), rel=1e-4)
    assert scan.at(1.0).losses[-1] == pytest.approx(3 * (1 - 0.01) ** (2 * (STEPS - 1)), rel=1e-4)
    assert [curve.first_update for curve in scan.curves] == pytest.approx([0.001, 0.01, 0.1], rel=1e-3)
    assert not scan.adaptive


def test_a_rate_above_two_explodes_on_a_parabola() -> None:
    scan = scan_of(parabola(2.5))
    assert scan.at(1.0).end > 1e3 * scan.start
    assert scan.at(0.1).end < 1e-3 * scan.start


def test_warm_up_starts_small_and_ends_at_the_full_rate() -> None:
    assert scan_of(parabola(0.01)).warmed.first_update == pytest.approx(0.01 / STEPS, rel=1e-3)


def test_the_subjects_own_schedule_is_kept() -> None:
    scan = scan_of(replace(parabola(0.01), schedule=lambda step: 0.5))
    assert scan.first_factor == scan.moving_factor == 0.5
    assert [curve.first_update for curve in scan.curves] == pytest.approx([0.0005, 0.005, 0.05], rel=1e-3)


def test_every_curve_sees_the_same_batches_and_weights() -> None:
    scan = scan_of(subjects.mlp())
    assert {curve.losses[0] for curve in (*scan.curves, scan.warmed)} == {scan.at(1.0).losses[0]}
    assert tuple(curve.factor for curve in scan.curves) == FACTORS
    assert scan.adaptive
    assert scan == scan_of(subjects.mlp())


def test_a_warm_up_from_zero_is_seen_at_its_first_step_that_moves() -> None:
    scan = scan_of(replace(parabola(0.01), schedule=lambda step: step / 10))
    assert (scan.first_factor, scan.moving_factor) == (0.0, 0.1)
    assert scan.at(1.0).first_update == pytest.approx(0.001, rel=1e-3)
