"""A user's optimizer as a recipe: the same class and settings over the same parameters of another model."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Factory = Callable[[nn.Module], Optimizer]
USUAL_RATE = 1e-3
NOT_SETTINGS = ("params", "param_names", "initial_lr")


def optimizer_factory(optimizer: Any, model: nn.Module) -> Factory:
    """model -> an optimizer with the user's settings.

    Args:
        optimizer: an instance over the parameters of ``model``; a class; a function of a model; None for AdamW at 1e-3.

    Raises:
        TypeError: something else.
    """
    if optimizer is None:
        return lambda model: torch.optim.AdamW(model.parameters(), lr=USUAL_RATE)
    if isinstance(optimizer, Optimizer):
        return same_optimizer(optimizer, model)
    made = optimizer.func if isinstance(optimizer, partial) else optimizer
    if isinstance(made, type) and issubclass(made, Optimizer):
        return lambda model: optimizer(model.parameters())
    if callable(optimizer):
        return optimizer
    raise TypeError(f"optimizer must be an Optimizer, a class or a function of a model, not {type(optimizer).__name__}")


def same_optimizer(optimizer: Optimizer, model: nn.Module) -> Factory:
    """model -> an optimizer of the same class, groups and settings, without a history of steps.

    Parameters are found by their names in ``model``; those that it does not have are foreign to the new model too. A
    rate that a scheduler has changed is the one that it started from.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        (settings_of(group), [(names.get(id(p)), p) for p in group["params"]]) for group in optimizer.param_groups
    ]

    def factory(model: nn.Module) -> Optimizer:
        own = dict(model.named_parameters(remove_duplicate=False))
        foreign: dict[int, Tensor] = {}

        def counterpart(name: str | None, parameter: Tensor) -> Tensor:
            if name is not None and name in own:
                return own[name]
            return foreign.setdefault(id(parameter), parameter.detach().clone().requires_grad_(parameter.requires_grad))

        made, seen = [], set[int]()  # an intervention may have tied what was apart: each tensor goes in once
        for settings, members in groups:
            parameters = [counterpart(name, parameter) for name, parameter in members]
            new = [each for each in parameters if not (id(each) in seen or seen.add(id(each)))]  # type: ignore[func-returns-value]
            made.append(settings | {"params": new})
        return another(optimizer, made)

    return factory


def settings_of(group: dict[str, Any]) -> dict[str, Any]:
    """A group's settings with the rate before any schedule."""
    settings = {key: copy.deepcopy(value) for key, value in group.items() if key not in NOT_SETTINGS}
    return settings | ({"lr": copy.deepcopy(group["initial_lr"])} if "initial_lr" in group else {})


def another(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """A new optimizer of the same class with these groups."""
    taken = inspect.signature(type(optimizer).__init__).parameters
    defaults = {key: value for key, value in optimizer.defaults.items() if key in taken}
    try:
        return type(optimizer)(groups, **defaults)
    except Exception:  # its constructor wants what its groups do not tell: the same one, started anew
        twin = copy.copy(optimizer)
        twin.param_groups, twin.state = groups, defaultdict(dict)
        return twin


def schedule_of(scheduler: Any) -> Callable[[int], float]:
    """step -> factor on the rate, of a scheduler that starts anew, stepped once per optimizer step.

    Raises:
        ValueError: it cannot be started anew without its optimizer.
    """
    if not isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
        if callable(scheduler):
            return scheduler
        raise ValueError(f"scheduler must be an LRScheduler or a function of the step, not {type(scheduler).__name__}")
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return lambda step: float(scheduler.lr_lambdas[0](step))
    factors, rates = list[float](), rates_anew(scheduler)

    def factor(step: int) -> float:
        while len(factors) <= step:
            factors.append(next(rates))
        return factors[step]

    return factor


def rates_anew(scheduler: Any) -> Iterator[float]:
    """The factors of a copy of the scheduler from its start on: some change the rate as soon as they are made."""
    base = float(scheduler.base_lrs[0])
    groups = [{**settings_of(group), "params": [torch.zeros(1)]} for group in scheduler.optimizer.param_groups]
    stand_in = torch.optim.SGD(groups, lr=base)
    for group, rate in zip(stand_in.param_groups, scheduler.base_lrs, strict=True):
        group["initial_lr"] = group["lr"] = rate
    twin = copy.deepcopy(scheduler, {id(scheduler.optimizer): stand_in})
    twin.last_epoch = -1
    twin._initial_step()
    twin._step_count = 2  # as after its first step, which checks how it was called
    while True:
        yield float(stand_in.param_groups[0]["lr"]) / base
        twin.step()
