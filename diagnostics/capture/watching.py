"""Watches a run to its own end: measures now and then, warns once per alarm, and says when the loss stands still."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import _get_current_function_mode

from diagnostics.bench import private_randomness
from diagnostics.capture import alarms
from diagnostics.capture.alarms import Gradients, LossInput
from diagnostics.capture.observer import Keep, Observer
from diagnostics.capture.recording import Recording
from diagnostics.capture.replica import replica_of
from diagnostics.capture.standstill import Curve, Standstill, standstill
from diagnostics.capture.tape import RecordedBatch
from diagnostics.capture.vitals import (
    gradients_at,
    held_by_none,
    loss_input,
    named_parameters,
    norms_by_depth,
    unmoved,
)
from diagnostics.copies import model_copy
from diagnostics.leaves import leaves
from diagnostics.levels import ReferenceLevel, double_softmax_ceiling, double_softmax_floor, uniform
from diagnostics.watch import TorchCalls

EVERY = 10  # steps from one look at the gradients to the next, and from one row of numbers to the next
FIRST_LOOKS = 3  # steps at the start, each looked at
LOSS_INPUT_EVERY = 500  # steps from one look at what the loss is given to the next
HELD_AT, MOVED_AT = 10, 50  # the steps at which parameters are compared with the optimizers', and with the start
STANDS_EVERY = 50  # steps from one test of the curve to the next
Row = Mapping[str, int | float]


class Watch:
    """Looks at the run while it is active.

    Args:
        recording: is filled with its first and its latest steps.
        warn: takes one line; each alarm is told once.
        log: takes a row of numbers now and then: step, loss, rate, gradient norms, levels.
        stands: called once, at the end of a step, when the loss has stood still for long enough.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        warn: Callable[[str], None],
        log: Callable[[Row], None] = lambda row: None,
        stands: Callable[[Standstill], None] = lambda found: None,
    ) -> None:
        self.recording, self.log, self.stands = recording, log, stands
        self.observer = Observer(recording, self._after, on_loss=self._on_loss, keep=Keep())
        self.curve = Curve()
        self.steps = 0
        self.levels: tuple[ReferenceLevel, ...] = ()
        self._warn, self._told = warn, set[str]()
        self._passes: list[Float[Tensor, ""]] = []  # losses of the present step
        self._unread: list[tuple[int, Float[Tensor, ""]]] = []  # step, its loss: read at once, but on a GPU
        self._latest: deque[float] = deque(maxlen=alarms.LEVEL_STEPS)
        self._looks: deque[Gradients] = deque(maxlen=alarms.ZERO_LOOKS)
        self._counts: dict[int, int] = {}  # steps of each optimizer, by identity
        self._row: dict[str, int | float] = {}
        self._loss_look = LossLook()

    def __enter__(self) -> "Watch":
        self._hook = register_optimizer_step_post_hook(self._stepped)  # before the observer's: it still records nothing
        self.observer.__enter__()
        if self.steps == 0:
            self._loss_look.begin(self.observer)
        return self

    def __exit__(self, *_: object) -> None:
        """Torch is what it was."""
        self._loss_look.end()
        self._hook.remove()
        self.observer.__exit__()

    def warn(self, alarm: str, line: str | None) -> None:
        """Tell a line about an alarm, unless there is none, or one was told."""
        if line is not None and alarm not in self._told:
            self._told.add(alarm)
            self._warn(line)

    def _on_loss(self, loss: Tensor) -> None:
        """Before a backward pass."""
        value = loss.reshape(()).clone()
        self._passes.append(value)
        if not value.is_cuda and self.steps and not math.isfinite(value):
            self._not_finite(self.steps + 1, float(value))

    @no_type_check
    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Right after an update, with the gradients that it was made from."""
        self._loss_look.end()  # not earlier: while backward is called, torch has its modes off the stack
        step = self._counts[id(optimizer)] = self._counts.get(id(optimizer), 0) + 1
        if step <= FIRST_LOOKS or step % EVERY == 0:
            self._look(optimizer, step)

    def _look(self, optimizer: Optimizer, step: int) -> None:
        names = {id(parameter): name for name, parameter in named_parameters(self.recording.modules)}
        found = gradients_at(step, optimizer, names)
        self.warn("gradient not finite", alarms.gradient_not_finite(found))
        if optimizer is next(iter(self.recording.optimizers), optimizer):
            self._looks.append(found)
            self.warn("gradient zero", alarms.gradient_zero(self._looks))
            self._row |= {"step": step, "optim/lr": float(optimizer.param_groups[0]["lr"])}
        self._row |= norms_by_depth(found)

    def _after(self, steps: int) -> None:
        """After a backward pass, or at the end of a step."""
        if steps == self.steps:
            return
        self.steps = steps
        with self.observer.recorder.paused():
            self._judge(steps)
        if steps % LOSS_INPUT_EVERY == 0:
            self._loss_look.begin(self.observer)

    def _judge(self, steps: int) -> None:
        """At the end of a step."""
        if self._passes:
            self._unread.append((steps, torch.stack(self._passes).sum()))
        self._passes = []
        if self._unread and (not self._unread[-1][1].is_cuda or steps % EVERY == 0):
            self._read()
        self._compare(steps)
        if steps % STANDS_EVERY == 0 and "stands" not in self._told and (found := standstill(self.curve)):
            self._told.add("stands")
            self.stands(found)

    def _read(self) -> None:
        """The losses since the last time: curve, alarms, and a row where gradients were looked at."""
        values = torch.stack([loss for _, loss in self._unread]).tolist()
        for (step, _), value in zip(self._unread, values, strict=True):
            if math.isfinite(value):
                self.curve.add(value)
                self._latest.append(value)
            else:
                self._not_finite(step, value)
        self._unread.clear()
        self._look_at_loss()
        self.warn("level", alarms.on_a_level(self.steps, list(self._latest), self.levels))
        if self._row.get("step") == self.steps:
            self.log(self._row | {"train/loss": values[-1]} | {f"level/{e.name}": e.nats for e in self.levels})
            self._row = {}

    def _look_at_loss(self) -> None:
        """What the loss was given, where that was looked at."""
        call = self._loss_look.taken()
        found = None if call is None else loss_input(self.steps, call)
        if found is not None:
            self.warn("probabilities", alarms.probabilities_as_scores(found))
            self.levels = levels_of(found)

    def _compare(self, step: int) -> None:
        """Parameters with what the optimizers hold, and with what they were."""
        if step == HELD_AT:
            names, of = held_by_none(self.recording)
            self.warn("not held", alarms.not_held(step, names, of))
        if step == MOVED_AT:
            names, of = unmoved(self.recording, self.observer.called)
            self.warn("not moved", alarms.not_moved(step, names, of))

    def _not_finite(self, step: int, value: float) -> None:
        if "loss not finite" not in self._told:
            self.warn("loss not finite", alarms.loss_not_finite(step, value, self._first_not_finite()))

    def _first_not_finite(self) -> str | None:
        """The first module that gives no finite numbers: of the model before its first step where that is over."""
        with suppress(Exception), self.observer.recorder.paused():  # a stranger's model, in a state that nobody wants
            replica = replica_of(self.recording)
            model = replica.start if self.steps == 1 else replica.model
            return first_not_finite(model, replica.batches[-1])
        return None


def levels_of(found: LossInput) -> tuple[ReferenceLevel, ...]:
    """The levels that no loss of this kind stands on while it is learning."""
    if found.are_probabilities:
        return double_softmax_ceiling(found.classes), double_softmax_floor(found.classes)
    return (uniform(found.classes),)


def first_not_finite(model: nn.Module, batch: RecordedBatch) -> str | None:
    """The first module, innermost first, whose output on a batch holds an infinite or undefined number."""
    found: list[str] = []
    twin = model_copy(model)

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = (each for _, each in leaves(output) if each.is_floating_point())
            if not all(bool(torch.isfinite(each).all()) for each in tensors):
                found.append(name)

        return hook

    for name, module in twin.named_modules():
        module.register_forward_hook(hook_of(name or type(model).__name__))
    with private_randomness(0), torch.no_grad():
        batch.tape.play(twin, batch)
    return found[0] if found else None


class LossLook(TorchCalls):
    """Sees the last call of a cross-entropy between two steps, inside of the model too; mostly it is not there."""

    def __init__(self) -> None:
        super().__init__()
        self.there = False
        self.seen: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def begin(self, observer: Observer) -> None:
        """Look from now on; not where the script has a mode of its own, which it must be able to leave."""
        modes, top = torch._C._len_torch_function_stack(), _get_current_function_mode()
        if not self.there and (modes == 0 or (modes == 1 and top is observer.recorder)):
            self.__enter__()
            self.there = True

    def end(self) -> None:
        """Look no more."""
        if self.there and _get_current_function_mode() is self:
            self.__exit__(None, None, None)
            self.there = False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen; remember what a cross-entropy was given."""
        if func is F.cross_entropy:
            self.seen = (args, kwargs)
        return func(*args, **kwargs)

    def taken(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What was seen, once."""
        seen, self.seen = self.seen, None
        return seen
