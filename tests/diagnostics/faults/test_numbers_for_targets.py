"""Regressions whose predictions and targets broadcast, or whose predictions cannot reach their targets."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import output_range_misses_the_targets, regression_target_mismatch
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
Loss = Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]
FAULTS = [output_range_misses_the_targets.FAULT, regression_target_mismatch.FAULT]


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_alone_and_the_remedy_cures(fault: Fault, name: str, verdict_of: Judge) -> None:
    healthy = subjects.HEALTHY[name]()
    assert verdict_of(fault, healthy).status in ("absent", "not tested")
    assert fault.plant is not None
    if name != "regression":
        with pytest.raises(ValueError, match="calls no mse_loss"):
            fault.plant(healthy)
        return
    faulty = fault.plant(healthy)
    assert [other.id for other in FAULTS if verdict_of(other, faulty).status == "present"] == [fault.id]
    assert verdict_of(fault, fault.remedies[0].apply(faulty)).status == "absent"


def regression(loss: Loss, last: Callable[[], nn.Module] = nn.Identity) -> Subject:
    """A network of two layers on a sine, its targets without an axis for the one number that each is."""

    def batches(seed: int):  # type: ignore[no-untyped-def]
        generator = torch.Generator().manual_seed(seed)
        for _ in range(5):
            x = torch.randn(29, 3, generator=generator)
            yield x, torch.sin(2 * x[:, 0])

    build = subjects.seeded(lambda: nn.Sequential(nn.Linear(3, 31), nn.Tanh(), nn.Linear(31, 1), last()))
    return replace(subjects.mlp(), model=build(0), build=build, batches=batches, heldout=None, loss=loss)


def crossed(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    with pytest.warns(UserWarning, match="target size"):
        return F.mse_loss(model(batch[0]), batch[1])


def crossed_by_hand(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def crossed_the_other_way(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (batch[1] - model(batch[0])).abs().mean()


def one_to_one(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]).squeeze(-1), batch[1])


def one_to_one_by_hand(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (batch[1].unsqueeze(-1) - model(batch[0])).pow(2).mean()


def order_swapped(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.smooth_l1_loss(batch[1], model(batch[0])[:, 0])


@pytest.mark.parametrize("loss", [crossed, crossed_by_hand, crossed_the_other_way], ids=lambda loss: loss.__name__)
def test_a_column_against_a_row_is_found_and_matched(loss: Loss, verdict_of: Judge) -> None:
    fault, subject = regression_target_mismatch.FAULT, regression(loss)
    assert verdict_of(fault, subject).numbers == {"targets": 29.0, "pairs": 841.0}
    assert verdict_of(fault, subject).status == "present"
    if loss is not crossed:  # which expects the warning that is gone then
        assert verdict_of(fault, fault.remedies[0].apply(subject)).status != "present"


@pytest.mark.parametrize("loss", [one_to_one, one_to_one_by_hand, order_swapped], ids=lambda loss: loss.__name__)
def test_one_to_one_raises_no_alarm(loss: Loss, verdict_of: Judge) -> None:
    assert "present" not in {verdict_of(fault, regression(loss)).status for fault in FAULTS}


@pytest.mark.parametrize("loss", [one_to_one, order_swapped], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("last", [nn.ReLU, nn.Sigmoid, nn.Softplus, lambda: nn.Hardtanh(-0.3, 0.3)])
def test_an_activation_that_misses_targets_is_found_and_left_out(
    loss: Loss, last: Callable[[], nn.Module], verdict_of: Judge
) -> None:
    fault, subject = output_range_misses_the_targets.FAULT, regression(loss, last)
    assert verdict_of(fault, subject).status == "present"
    assert verdict_of(fault, fault.remedies[0].apply(subject)).status == "absent"


@pytest.mark.parametrize("last", [nn.Tanh, nn.Identity, nn.LeakyReLU])
def test_an_activation_whose_range_holds_the_targets_raises_no_alarm(
    last: Callable[[], nn.Module], verdict_of: Judge
) -> None:
    assert verdict_of(output_range_misses_the_targets.FAULT, regression(one_to_one, last)).status == "absent"
