"""How much a loss smooths its labels: torch's own way and written out, and what that leaves to be lost."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.smoothing import NONE, Smoothing, smoothing
from diagnostics.subject import Batch, Subject

CLASSES = 7


def of_torch(scores: Tensor, targets: Tensor) -> Tensor:
    """Torch's own."""
    return F.cross_entropy(scores, targets, label_smoothing=0.2)


def by_hand(scores: Tensor, targets: Tensor) -> Tensor:
    """As people write it out."""
    logs = F.log_softmax(scores, dim=-1)
    own = -logs.gather(1, targets[:, None]).squeeze(1)
    return (0.8 * own + 0.2 * -logs.mean(1)).mean()


def subject(criterion: object) -> Subject:
    """A linear classifier under a criterion, on batches that differ."""
    torch.manual_seed(0)
    data = [(torch.randn(11, 5), torch.randint(CLASSES, (11,))) for _ in range(3)]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return criterion(model(batch[0]), batch[1])  # type: ignore[operator]

    return Subject(
        model=nn.Linear(5, CLASSES),
        loss=loss,
        batches=lambda seed: iter(data),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


@pytest.mark.parametrize("criterion", [of_torch, by_hand])
def test_a_fifth_is_found(criterion: object) -> None:
    with open_bench(subject(criterion), 0) as bench:
        found = smoothing(bench)
    assert found.amount == pytest.approx(0.2, abs=1e-4)
    assert found.classes == CLASSES


def test_nothing_is_found_where_nothing_is_smoothed() -> None:
    with open_bench(subject(F.cross_entropy), 0) as bench:
        assert smoothing(bench) == NONE


def test_the_mode_of_the_model_stays() -> None:
    with open_bench(replace(subject(of_torch)), 0) as bench:
        bench.model.train()
        smoothing(bench)
        assert bench.model.training


def test_the_floor_is_reached_by_the_smoothed_weights_and_by_nothing_better() -> None:
    found = Smoothing(amount=0.2, classes=CLASSES)
    best = torch.full((1, CLASSES), 0.2 / CLASSES)
    best[0, 3] += 0.8
    target = torch.tensor([3])
    assert float(of_torch(best.log(), target)) == pytest.approx(found.floor)
    assert float(F.cross_entropy(best.log(), target)) == pytest.approx(found.left)
    assert float(of_torch(best.log() * 1.1, target)) > found.floor
    assert (NONE.floor, math.fabs(NONE.left)) == (0.0, 0.0)
