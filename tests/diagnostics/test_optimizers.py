"""A user's optimizer over another model: the same class, groups and settings, and the same mistakes."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, StepLR

from diagnostics.optimizers import optimizer_factory, schedule_of


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))


def names(optimizer: Optimizer, model: nn.Module) -> list[list[str | None]]:
    """The names in the model of an optimizer's parameters, group by group; None for foreign ones."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[known.get(id(parameter)) for parameter in group["params"]] for group in optimizer.param_groups]


def settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def optimizers(model: nn.Sequential) -> dict[str, Optimizer]:
    decayed = [{"params": model[0].parameters(), "weight_decay": 0.3}, {"params": model[1].parameters(), "lr": 0.7}]
    return {
        "adamw": AdamW(decayed, lr=0.02, betas=(0.8, 0.98), amsgrad=True),
        "adam": Adam(model.parameters(), lr=0.02, eps=1e-3),
        "sgd": SGD(decayed, lr=0.02, momentum=0.9, nesterov=True),
        "rmsprop": torch.optim.RMSprop(model.parameters(), lr=0.02, alpha=0.5),
        "adagrad": torch.optim.Adagrad(model.parameters(), lr=0.02),
        "named": AdamW(model.named_parameters(), lr=0.02),
        "lr tensor": Adam(model.parameters(), lr=torch.tensor(0.02)),
    }


@pytest.mark.parametrize("kind", optimizers(two()))
def test_an_instance_is_made_again_for_another_model(kind: str) -> None:
    model, other = two(), two()
    given = optimizers(model)[kind]
    made = optimizer_factory(given, model)(other)
    assert type(made) is type(given)
    assert made is not given
    assert names(made, other) == names(given, model)
    kept = [{key: value for key, value in group.items() if key != "param_names"} for group in settings(given)]
    assert settings(made) == kept


def test_parameters_that_it_misses_stay_missing() -> None:
    model, other = two(), two()
    made = optimizer_factory(SGD(model[0].parameters(), lr=0.1), model)(other)
    assert names(made, other) == [["0.weight", "0.bias"]]


def test_parameters_of_an_older_model_stay_foreign() -> None:
    old, model, other = two(), two(), two()
    made = optimizer_factory(SGD(old.parameters(), lr=0.1), model)(other)
    assert names(made, other) == [[None] * 4]
    given = {id(parameter) for parameter in old.parameters()}
    assert not given & {id(parameter) for group in made.param_groups for parameter in group["params"]}


def test_frozen_parameters_stay_in_it() -> None:
    model, other = two(), two()
    model[0].requires_grad_(False)
    assert names(optimizer_factory(SGD(model.parameters(), lr=0.1), model)(other), other)[0][0] == "0.weight"


def test_tied_parameters_are_found_once() -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11, bias=False))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    made = optimizer_factory(AdamW(model.parameters()), model)(other)
    assert names(made, other) == [["0.weight"]]


def test_what_an_intervention_ties_goes_in_once() -> None:
    model, other = (nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11, bias=False)) for _ in range(2))
    other[1].weight = other[0].weight
    given = AdamW([{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.3}])
    assert names(optimizer_factory(given, model)(other), other) == [["0.weight"], []]


def test_a_history_of_steps_is_left_behind() -> None:
    model, other = two(), two()
    given = AdamW(model.parameters())
    model(torch.ones(2, 5)).sum().backward()
    given.step()
    assert not optimizer_factory(given, model)(other).state


@pytest.mark.parametrize("given", [AdamW, partial(AdamW, lr=0.3), lambda model: AdamW(model.parameters()), None])
def test_classes_and_functions_are_called(given: Any) -> None:
    model = two()
    made = optimizer_factory(given, model)(model)
    assert isinstance(made, AdamW)
    assert made.param_groups[0]["lr"] == (0.3 if isinstance(given, partial) else 1e-3)


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="optimizer must be an Optimizer, a class or a function of a model, not float"):
        optimizer_factory(1e-3, two())


def test_an_optimizer_with_a_constructor_of_its_own_is_started_anew() -> None:
    class Own(SGD):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model.parameters(), lr=0.3, momentum=0.9)

    model, other = two(), two()
    made = optimizer_factory(Own(model), model)(other)
    other(torch.ones(2, 5)).sum().backward()
    made.step()
    assert names(made, other)[0][0] == "0.weight"
    assert made.param_groups[0]["lr"] == 0.3


def schedulers(optimizer: Optimizer) -> dict[str, Any]:
    return {
        "warm-up": lambda: LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10)),
        "steps": lambda: StepLR(optimizer, 3, gamma=0.5),
        "cosine": lambda: CosineAnnealingLR(optimizer, 20),
        "one cycle": lambda: OneCycleLR(optimizer, 0.4, total_steps=20),
    }


@pytest.mark.parametrize("kind", schedulers(SGD(two().parameters(), lr=0.1)))
@pytest.mark.parametrize("steps_made", [0, 7])
def test_a_scheduler_starts_anew(kind: str, steps_made: int) -> None:
    fresh = SGD(two().parameters(), lr=0.1)
    scheduler = schedulers(fresh)[kind]()
    base, expected = scheduler.base_lrs[0], []
    for _ in range(12):
        expected.append(fresh.param_groups[0]["lr"] / base)
        fresh.step()
        scheduler.step()
    model = two()
    given = SGD(model.parameters(), lr=0.1)
    used = schedulers(given)[kind]()
    for _ in range(steps_made):
        given.step()
        used.step()
    standing = given.param_groups[0]["lr"]
    factor = schedule_of(used)
    assert [factor(step) for step in range(12)] == pytest.approx(expected)
    assert given.param_groups[0]["lr"] == standing
    assert used.last_epoch == steps_made
    made = optimizer_factory(given, model)(two())
    assert made.param_groups[0]["lr"] == pytest.approx(base)


def test_a_function_of_the_step_is_a_schedule() -> None:
    assert schedule_of(lambda step: 0.5)(3) == 0.5
    with pytest.raises(ValueError, match="scheduler must be an LRScheduler or a function of the step, not float"):
        schedule_of(0.5)
