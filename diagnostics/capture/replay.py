"""Plays a recording again on a copy of the model, and says whether its losses come out as the script's did."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from diagnostics.bench import private_randomness
from diagnostics.capture.observer import FINE_STEPS
from diagnostics.capture.optimization import clip, unscale
from diagnostics.capture.recorder import Part
from diagnostics.capture.recording import Backward, Clip, Event, Unscale, Update, Window, ZeroGrad
from diagnostics.capture.replica import Played, Replica
from diagnostics.copies import model_copy

Rules = Callable[[Window], Window]
"""What of a step's events is played: all as they came, or in the usual order."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """The script's first losses and the same ones played again, in nats per token for a language model."""

    seen: tuple[float, ...]
    played: tuple[float, ...]

    @property
    def exact(self) -> bool:
        """Whether they are equal to the last digit."""
        return bool(self.seen) and self.seen == self.played

    @property
    def worst(self) -> float:
        """The largest difference."""
        return max((abs(a - b) for a, b in zip(self.seen, self.played, strict=True)), default=math.inf)


def reproduced(replica: Replica, factories: Sequence[Callable[[nn.Module], Optimizer]], rules: Rules) -> Reproduction:
    """The first steps played again from the start, with the script's own random numbers."""
    model = model_copy(replica.start)
    optimizers = [factory(model) for factory in factories]
    seen: list[float] = []
    played: list[float] = []
    with private_randomness(0), torch.enable_grad():
        for window in replica.windows[:FINE_STEPS]:
            if any(event.forward is None for event in window.backwards):
                break
            for event in rules(window).events:
                if isinstance(event, Backward) and id(event) not in replica.played:
                    continue  # on a loss of something else than this model
                if isinstance(event, Backward):
                    one = replica.played[id(event)]
                    seen.append(one.value)
                    played.append(play(one, model, event.scale))
                else:
                    repeat(event, model, optimizers, scale=window.scale)
    return Reproduction(seen=tuple(seen), played=tuple(played))


def play(one: Played, model: nn.Module, scale: float) -> float:
    """The loss of one pass, with backward on it times ``scale``, in the script's modes and with its random numbers."""

    def before_part(index: int) -> None:
        node = one.forward.nodes[index]
        assert isinstance(node.call, Part)
        name = one.tape.nodes[index].call
        assert isinstance(name, str)
        set_mode(model.get_submodule(name), node.call.module, training=node.training)
        if node.randomness is not None:
            node.randomness.restore()

    loss = one.tape.play(model, one.batch, before_part)
    (loss if scale == 1.0 else loss * scale).backward()
    return float(loss.detach())


def set_mode(module: nn.Module, like: nn.Module, *, training: bool) -> None:
    """Train or evaluate, as the script did; modules inside that it keeps in the other mode stay so."""
    for own, theirs in zip(module.modules(), like.modules(), strict=False):
        own.training = theirs.training if like.training == training else training


def repeat(event: Event, model: nn.Module, optimizers: Sequence[Optimizer], *, scale: float) -> None:
    """Do to this model and its optimizers what was done to the script's."""
    if isinstance(event, ZeroGrad):
        for owner in [model] if event.optimizer is None else [optimizers[event.optimizer]]:
            owner.zero_grad(set_to_none=True)
    elif isinstance(event, Clip):
        clip(model, event)
    elif isinstance(event, Unscale):
        unscale(optimizers[event.optimizer], scale)
    elif isinstance(event, Update):
        optimizer = optimizers[event.optimizer]
        for group, settings in zip(optimizer.param_groups, event.settings, strict=True):
            group.update(settings)
        optimizer.step()


def as_seen(window: Window) -> Window:
    """The events as they came."""
    return window


def in_usual_order(window: Window) -> Window:
    """The same passes in the usual order: gradients dropped, backward, unscaled, clipped, every optimizer's step."""
    optimizers = sorted({event.optimizer for event in window.updates})
    drops = tuple(ZeroGrad(optimizer=number) for number in optimizers)
    unscaled = tuple(Unscale(optimizer=number) for number in optimizers)
    return Window(events=(*drops, *window.backwards, *unscaled, *window.clips, *window.updates))
