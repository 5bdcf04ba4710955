"""Samples counted along the batch: not where a batch merely has as many features as samples."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from diagnostics.adapt import subject_from
from diagnostics.fault import Verdict
from diagnostics.faults.positions_on_the_batch_axis import FAULT


@pytest.mark.parametrize("samples", [5, 7, 11], ids=["as many as features", "more", "many more"])
def test_as_many_features_as_samples_are_no_positions(samples: int, verdict_of: Callable[..., Verdict]) -> None:
    points = torch.randn(samples, 5)
    model = nn.Sequential(nn.Linear(5, 17), nn.ReLU(), nn.Linear(17, 3))
    subject = subject_from(model, (points, points[:, :3]), nn.MSELoss())
    assert verdict_of(FAULT, subject).status == "absent"
