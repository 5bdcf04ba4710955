"""What is measured of a run while it is on: gradients, what the loss is given, whether parameters are held and move."""

import gc
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.capture.alarms import Gradients, LossInput
from diagnostics.capture.recording import Recording
from diagnostics.watch import LossCall, loss_call

SUM_ERROR = 1e-3  # of a row of probabilities, in half precision too


def named_parameters(modules: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter once, by the name in the first of the modules that has it."""
    seen: set[int] = set()
    for module in modules:
        prefix = f"{type(module).__name__.lower()}." if len(modules) > 1 else ""
        for name, parameter in module.named_parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield prefix + name, parameter


@torch.no_grad()
def gradients_at(step: int, optimizer: Optimizer, names: Mapping[int, str]) -> Gradients:
    """The gradients of the parameters that an optimizer holds.

    Args:
        names: of parameters, by identity; others are told by their place in the optimizer.
    """
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    given = [(names.get(id(p), f"parameter {place}"), p) for place, p in enumerate(held) if p.grad is not None]
    lengths = lengths_of([parameter.grad for _, parameter in given])
    return Gradients(
        step=step,
        norms=tuple((name, length) for (name, _), length in zip(given, lengths, strict=True)),
        matrices=frozenset(name for name, parameter in given if parameter.dim() > 1),
    )


def lengths_of(gradients: Sequence[Float[Tensor, "..."]]) -> list[float]:
    """The length of each, with one wait per device."""
    found = [math.nan] * len(gradients)
    by_device: defaultdict[torch.device, list[int]] = defaultdict(list)
    for place, gradient in enumerate(gradients):
        by_device[gradient.device].append(place)
    for places in by_device.values():
        dense = [
            gradients[place].coalesce().values() if gradients[place].is_sparse else gradients[place] for place in places
        ]
        lengths = torch.stack([length.float() for length in torch._foreach_norm(dense)]).tolist()
        for place, length in zip(places, lengths, strict=True):
            found[place] = length
    return found


def norms_by_depth(found: Gradients) -> dict[str, float]:
    """The length of the whole gradient, and of that of each block of the model and of what lies outside of blocks."""
    squares: defaultdict[str, float] = defaultdict(float)
    for name, norm in found.norms:
        squares["grad/norm"] += norm**2
        squares[f"grad/norm/{block_of(name)}"] += norm**2
    return {name: math.sqrt(square) for name, square in squares.items()}


def block_of(name: str) -> str:
    """The block of the model that a parameter lies in: its name up to the first number, or its first part.

    >>> block_of("encoder.layers.3.attention.query.weight"), block_of("head.weight")
    ('encoder.layers.3', 'head')
    """
    parts = name.split(".")
    end = next((place for place, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: end + 1])


def loss_input(step: int, seen: tuple[tuple[Any, ...], dict[str, Any]]) -> LossInput | None:
    """What a cross-entropy was given; None where its loss has no level that theory names, or nothing trains on it."""
    call = loss_call("cross_entropy", *seen)
    plain = call.reduction == "mean" and not call.label_smoothing and call.scores.numel()
    if not plain or call.scores.shape[-1] < 2 or call.given is None or not call.given.requires_grad:
        return None
    return LossInput(step=step, classes=call.scores.shape[-1], are_probabilities=are_probabilities(call))


def are_probabilities(call: LossCall) -> bool:
    """Whether every row of the scores is a distribution."""
    rows = call.scores.float()
    return bool(rows.min() >= 0) and bool(((rows.sum(-1) - 1).abs() < SUM_ERROR).all())


def held_by_none(recording: Recording) -> tuple[list[str], int]:
    """The parameters that get a gradient and that no optimizer holds, and of how many that get one."""
    given = [(n, p) for n, p in named_parameters(recording.modules) if p.requires_grad and p.grad is not None]
    for optimizers in (lambda: recording.optimizers, living_optimizers):  # the latter only where the former leave some
        held = {id(p) for each in optimizers() for group in each.param_groups for p in group["params"]}
        missing = [name for name, parameter in given if id(parameter) not in held]
        if not missing:
            break
    return missing, len(given)


def living_optimizers() -> list[Optimizer]:
    """Every optimizer that there is."""
    return [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]


def unmoved(recording: Recording, called: Collection[int]) -> tuple[list[str], int]:
    """The matrices that an optimizer holds and that are what they were before the first step, and of how many.

    Args:
        called: modules that the script's passes reach, by identity; what lies in others has no reason to move.
    """
    used = {
        id(p) for each in recording.modules for m in each.modules() if id(m) in called for p in m._parameters.values()
    }
    held = {id(p) for each in recording.optimizers for group in each.param_groups for p in group["params"]}
    matrices = [
        (name, parameter)
        for name, parameter in named_parameters(recording.modules)
        if parameter.dim() > 1 and parameter.requires_grad and id(parameter) in used & held & recording.initial.keys()
    ]
    same = [
        name for name, parameter in matrices if torch.equal(parameter.detach(), recording.initial[id(parameter)][1])
    ]
    return same, len(matrices)
