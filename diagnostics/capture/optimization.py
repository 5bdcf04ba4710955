"""How a recorded script updates its model: optimizers, learning rates over time, clipping, the order of its step."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.capture.recording import Backward, Clip, Recording, Unscale, Update, Window, ZeroGrad
from diagnostics.capture.tape import RecordedBatch
from diagnostics.optimizers import same_optimizer, schedule_of

SAME_RATE = 1e-6  # relative: rates that a scheduler gives and that were seen
Letters = str
"""Events of a step in order: Z drops gradients, B is backward, S takes a loss scale off, C clips, V clips one by one,
U updates."""
USUAL = ("ZBU", "ZBCU")


class Several(Optimizer):
    """Several optimizers as one: their groups in order, each updated by its own."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = tuple(optimizers)
        groups = [group for each in optimizers for group in each.param_groups]
        held = {id(parameter): parameter for group in groups for parameter in group["params"]}  # some by several
        super().__init__(list(held.values()), {})
        self.param_groups = groups
        self.defaults = dict(optimizers[0].defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update by each."""
        for each in self.optimizers:
            each.step()

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """What each remembers of its parameters."""
        return defaultdict(dict, chain.from_iterable(each.state.items() for each in self.optimizers))

    @state.setter
    def state(self, value: Any) -> None:
        """Nothing: the state is that of the optimizers."""


def factories_of(recording: Recording, model: nn.Module) -> list[Callable[[nn.Module], Optimizer]]:
    """For each of the script's optimizers: model -> the same one over another model, at its base rates.

    Raises:
        ValueError: one of those that stepped needs a closure.
    """
    for number in stepped(recording):
        check_no_closure(recording.optimizers[number])
    return [
        at_rates(same_optimizer(optimizer, model), base_rates(recording, number))
        for number, optimizer in enumerate(recording.optimizers)
    ]


def stepped(recording: Recording) -> list[int]:
    """The numbers of the optimizers that took a step: another one may only have dropped gradients."""
    return sorted({update.optimizer for window in recording.windows for update in window.updates})


def check_no_closure(optimizer: Optimizer) -> None:
    """Raises ValueError for an optimizer that computes the loss itself, as LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(optimizer).__name__} computes the loss several times in one step, by a closure; that cannot be "
            "played again: train with an optimizer that does not need one"
        )


def at_rates(factory: Callable[[nn.Module], Optimizer], rates: Sequence[float]) -> Callable[[nn.Module], Optimizer]:
    """The same factory with these learning rates, one per group."""

    def made(model: nn.Module) -> Optimizer:
        optimizer = factory(model)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        return optimizer

    return made


def together(factories: Sequence[Callable[[nn.Module], Optimizer]]) -> Callable[[nn.Module], Optimizer]:
    """One optimizer, or several as one."""
    return factories[0] if len(factories) == 1 else lambda model: Several([each(model) for each in factories])


def updates_of(recording: Recording, number: int) -> list[Update]:
    """The steps of one optimizer."""
    return [update for window in recording.windows for update in window.updates if update.optimizer == number]


def base_rates(recording: Recording, number: int) -> list[float]:
    """Each group's learning rate before any schedule: what its scheduler says, otherwise the largest that was seen."""
    updates = updates_of(recording, number)
    if not updates:
        return [float(group["lr"]) for group in recording.optimizers[number].param_groups]
    groups = range(len(updates[0].settings))
    return [
        float(updates[0].settings[g].get("initial_lr", max(float(u.settings[g]["lr"]) for u in updates)))
        for g in groups
    ]


def schedule_seen(recording: Recording) -> Callable[[int], float] | None:
    """step -> factor on the base rate: as seen, then as the scheduler goes on, else the last one; None: always 1."""
    number = stepped(recording)[0]
    base = base_rates(recording, number)[0]
    rates = [float(update.settings[0]["lr"]) for update in updates_of(recording, number)]
    if base == 0 or all(rate == base for rate in rates):
        return None
    factors = [rate / base for rate in rates]
    later = scheduler_that_gives(recording, factors)
    return lambda step: factors[step] if step < len(factors) else (later(step) if later else factors[-1])


def scheduler_that_gives(recording: Recording, factors: Sequence[float]) -> Callable[[int], float] | None:
    """The script's scheduler as a function of the optimizer step, where it gives the factors that were seen."""
    for scheduler in recording.schedulers:
        if getattr(scheduler, "optimizer", None) is not recording.optimizers[stepped(recording)[0]]:
            continue
        with suppress(Exception):  # a stranger's scheduler, or one that wants a metric
            schedule = schedule_of(scheduler)
            if all(math.isclose(schedule(i), f, rel_tol=SAME_RATE, abs_tol=1e-12) for i, f in enumerate(factors)):
                return schedule
    return None


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How one step of the script's loop goes.

    Args:
        order: its events as letters, see `letters`; a scale that is taken off right after backward is none.
        passes: backward passes per step that nothing divides by their number; 1 where they are normalised.
        scale: what the loss is multiplied by where that reaches something else than its removal.
        clips: of gradients.
        training: whether the model is in training mode.
        dropped: which of several optimizers drop their gradients; None: all of them.
    """

    order: Letters
    passes: int
    scale: float
    clips: tuple[Clip, ...]
    training: bool
    dropped: tuple[int, ...] | None = None

    @property
    def is_usual(self) -> bool:
        """Whether this is what everybody does: zero_grad, backward, perhaps clipping, step."""
        plain = self.passes == 1 and self.scale == 1.0 and self.dropped is None
        return self.order in USUAL and plain and self.training

    @property
    def clip_norm(self) -> float | None:
        """The norm that gradients are clipped to between backward and update; None where they are not."""
        limits = {each.limit for each in self.clips if each.kind == "norm" and math.isfinite(each.limit)}
        return limits.pop() if len(limits) == 1 and "BC" in self.order else None

    def step(self, model: nn.Module, optimizer: Optimizer, batch: RecordedBatch) -> Float[Tensor, ""]:
        """One step in this order: see `diagnostics.Subject.step`."""
        model.train(self.training)
        loss: Tensor | None = None
        for letter in self.order:
            if letter == "B":
                for _ in range(self.passes):
                    loss = batch.tape.play(model, batch)
                    (loss if self.scale == 1.0 else loss * self.scale).backward()
            else:
                self._do(letter, model, optimizer)
        assert loss is not None
        return loss

    def _do(self, letter: str, model: nn.Module, optimizer: Optimizer) -> None:
        if letter == "Z":
            several = optimizer.optimizers if isinstance(optimizer, Several) else (optimizer,)
            for number, each in enumerate(several):
                if self.dropped is None or number in self.dropped:
                    each.zero_grad(set_to_none=True)
        elif letter == "S":
            unscale(optimizer, self.scale)
        elif letter == "U":
            optimizer.step()
        else:
            for how in self.clips:
                clip(model, how)


def loop_of(windows: Sequence[Window], *, order: Letters | None, normalised: bool, training: bool) -> Loop:
    """The loop of a script, by its second step, as the first may have nothing to drop yet.

    Args:
        order: None: as seen.
        normalised: whether something divides a loss by the number of backward passes.
    """
    window = windows[min(1, len(windows) - 1)]
    seen, scale = order or letters(window), window.scale
    if scale == 1.0 or seen.count("S") == 1 == seen.count("BS"):
        seen, scale = seen.replace("S", ""), 1.0
    passes = 1 if normalised else len(window.backwards)
    dropped = None if order else dropped_in(window)
    return Loop(order=seen, passes=passes, scale=scale, clips=window.clips, training=training, dropped=dropped)


def dropped_in(window: Window) -> tuple[int, ...] | None:
    """Which of the optimizers that step drop their gradients, by their order among those; None: all, or none does."""
    drops = [event.optimizer for event in window.events if isinstance(event, ZeroGrad)]
    stepped = sorted({update.optimizer for update in window.updates})
    if not drops or None in drops or set(stepped) <= set(drops):
        return None
    return tuple(place for place, number in enumerate(stepped) if number in drops)


def letters(window: Window) -> Letters:
    """The order of a step, several passes or optimizers in a row as one; clipping at infinity only measures.

    >>> letters(Window(events=(ZeroGrad(optimizer=0), Clip(kind="norm", limit=1.0))))
    'ZC'
    """
    found = ""
    for event in window.events:
        letter = letter_of(event)
        found += letter if letter and not found.endswith(letter) else ""
    while "BZB" in found:  # dropped between the passes of one step: the last pass is what counts
        found = found.replace("BZB", "B")
    return found


def letter_of(event: Any) -> str:
    """One event as a letter; none for what changes nothing."""
    if isinstance(event, Clip):
        return ("" if math.isinf(event.limit) else "C") if event.kind == "norm" else "V"
    return {ZeroGrad: "Z", Backward: "B", Unscale: "S", Update: "U"}.get(type(event), "")


def clip(model: nn.Module, how: Clip) -> None:
    """Clip a model's gradients as the script does."""
    if how.kind == "value":
        nn.utils.clip_grad_value_(model.parameters(), how.limit)
    elif math.isfinite(how.limit):
        nn.utils.clip_grad_norm_(model.parameters(), how.limit)


@torch.no_grad()
def unscale(optimizer: Optimizer, scale: float) -> None:
    """Divide the gradients of an optimizer's parameters."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.div_(scale)
