"""trained-in-eval-mode and evaluated-in-train-mode, on plants and on programs of others."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import evaluated_in_train_mode, trained_in_eval_mode
from diagnostics.subject import Batch, Subject
from tests import subjects

TRAINED, EVALUATED = trained_in_eval_mode.FAULT, evaluated_in_train_mode.FAULT
VerdictOf = Callable[..., Verdict]
WITH_MODES = [name for name in subjects.HEALTHY if name not in ("gru", "regression")]


class ByHand(nn.Module):
    """Dropout written with the function, as many do; ``switch`` is the argument that they forget."""

    def __init__(self, *, always: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.always = nn.Linear(5, 31), nn.Linear(31, 3), always

    def forward(self, points: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
        return self.second(F.dropout(self.first(points).relu(), 0.1, training=self.always or self.training))


def classifier(make: Callable[[], nn.Module], **changes: object) -> Subject:
    build = subjects.seeded(make)
    return replace(subjects.mlp(), model=build(0), build=build, **changes)  # type: ignore[arg-type]


def recurrent() -> nn.Module:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(1, 7, num_layers=2, dropout=0.2, batch_first=True), nn.Linear(7, 3)

        def forward(self, points: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
            return self.head(self.rnn(points[..., None])[0][:, -1])

    return Last()


def loss_in_eval_mode(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    model.eval()
    return F.cross_entropy(model(batch[0]), batch[1])


def loss_with_frozen_body(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    model.get_submodule("first").eval()
    return F.cross_entropy(model(batch[0]), batch[1])


def step_in(mode: bool) -> Callable[[nn.Module, Optimizer, Batch], Tensor]:
    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Float[Tensor, ""]:
        model.train(mode)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss

    return step


def evaluation(*, switches: bool) -> Callable[[nn.Module], float]:
    def evaluate(model: nn.Module) -> float:
        if switches:
            model.eval()
        with torch.no_grad():
            losses = [F.cross_entropy(model(x), y) for x, y in subjects.mlp().batches(3)]
        model.train()
        return float(torch.stack(losses).mean())

    return evaluate


@pytest.mark.parametrize("name", WITH_MODES)
@pytest.mark.parametrize("fault", [TRAINED, EVALUATED], ids=lambda fault: fault.id)
def test_a_plant_is_present_and_the_remedy_takes_it_away(fault: Fault, name: str, verdict_of: VerdictOf) -> None:
    assert fault.plant is not None
    planted = fault.plant(subjects.HEALTHY[name]())
    assert verdict_of(fault, planted).status == "present"
    assert verdict_of(fault, fault.remedies[0].apply(planted)).status == "absent"
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("make", [ByHand, recurrent], ids=["by-hand", "lstm"])
def test_a_loss_that_calls_eval_is_found_in_other_code(make: Callable[[], nn.Module], verdict_of: VerdictOf) -> None:
    assert verdict_of(TRAINED, classifier(make, loss=loss_in_eval_mode)).status == "present"
    assert verdict_of(TRAINED, classifier(make)).status == "absent"


@pytest.mark.parametrize(("mode", "status"), [(False, "present"), (True, "absent")])
def test_a_step_of_ones_own_decides(mode: bool, status: str, verdict_of: VerdictOf) -> None:
    assert verdict_of(TRAINED, classifier(ByHand, step=step_in(mode))).status == status


def test_a_part_that_is_frozen_on_purpose_is_not_an_alarm(verdict_of: VerdictOf) -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.1)).requires_grad_(False)
            self.last = ByHand()

        def forward(self, points: Float[Tensor, "batch 5"]) -> Float[Tensor, "batch 3"]:
            return self.last(self.first(points))

    assert verdict_of(TRAINED, classifier(Frozen, loss=loss_with_frozen_body)).status == "unclear"


@pytest.mark.parametrize(
    ("switches", "always", "status"), [(True, False, "absent"), (False, False, "present"), (True, True, "present")]
)
def test_an_evaluation_without_eval_or_with_dropout_that_never_stops(
    switches: bool, always: bool, status: str, verdict_of: VerdictOf
) -> None:
    subject = classifier(lambda: ByHand(always=always), evaluate=evaluation(switches=switches))
    assert verdict_of(EVALUATED, subject).status == status


def test_batch_norm_without_running_statistics_has_one_mode(verdict_of: VerdictOf) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 31), nn.BatchNorm1d(31, track_running_stats=False), nn.Linear(31, 3))

    assert verdict_of(EVALUATED, classifier(make, evaluate=evaluation(switches=True))).status == "absent"


def test_a_model_without_such_layers_cannot_carry_it() -> None:
    assert TRAINED.plant is not None
    with pytest.raises(ValueError, match="gru has no dropout above zero and no batch norm"):
        TRAINED.plant(subjects.gru())
