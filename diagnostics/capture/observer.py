"""Watches torch from outside while somebody else's code trains: modules, backward passes, optimizers, schedulers.

Nothing that the code computes changes: no random number is drawn, no hook is written into its model. While this is
active, torch's own entry points pass through here; afterwards they are what they were.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, no_type_check

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from diagnostics.capture.recorder import Forward, Recorder, UnplayableError
from diagnostics.capture.recording import Backward, Clip, Event, Pass, Reading, Recording, Unscale, Update, ZeroGrad
from diagnostics.copies import held_tensors

FINE_STEPS = 10  # whose random states are kept, so that they can be played again to the last digit
READINGS = 64  # validation losses that are kept
MOST_BYTES = 2**30  # of recorded batches


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which steps of a long run are recorded, and which of these are kept.

    Args:
        first: steps, all of them; with FINE_STEPS or more, what is kept begins as the run did.
        every: after that one step in so many is recorded; in the others only losses are told, at next to no cost.
        latest: so many of the recorded ones are kept beside the first.
    """

    first: int = 20
    every: int = 10
    latest: int = 20


class Observer:
    """Fills a recording while it is active.

    Args:
        recording: what is filled.
        after_step: called after every optimizer step and every backward pass with the number of steps of the first
            optimizer so far; may raise to end the script.
        before_step: called before every optimizer step; may raise likewise.
        on_loss: called before every backward pass with what it is called on, without a gradient scaler's factor.
        keep: for a run of any length; None: everything.
    """

    def __init__(
        self,
        recording: Recording,
        after_step: Callable[[int], None] = lambda steps: None,
        before_step: Callable[[], None] = lambda: None,
        on_loss: Callable[[Tensor], None] = lambda loss: None,
        keep: Keep | None = None,
    ) -> None:
        self.recording, self.after_step, self.before_step = recording, after_step, before_step
        self.on_loss, self.keep, self.resting = on_loss, keep, False
        self.called: set[int] = set()  # modules, by identity, in the first steps
        self.recorder = Recorder(on_number=self._note_reading)
        self.inside = False
        self.steps = 0
        self.first: int | None = None  # of the optimizers to step
        self.backwards = 0
        self.readings = 0
        self.bytes = 0
        self.loaders: dict[int, Any] = {}
        self.scaled: dict[int, tuple[Tensor, Tensor, float]] = {}  # since the last step: loss, before scaling, factor
        self.began: float | None = None
        self._thread = threading.get_ident()
        self._stack = ExitStack()
        self._step: ExitStack | None = None

    def __enter__(self) -> "Observer":
        """Watch from now on; after an exit it goes on where it was."""
        self.recorder.on, self.recorder.left, self.resting = True, False, False
        enter = self._stack.enter_context
        enter(replaced(nn.Module, "__call__", self._module_call))
        enter(replaced(torch.autograd, "backward", self._backward))
        enter(replaced(torch.autograd, "grad", self._gradient))
        enter(replaced(torch.autograd.Function, "apply", self._function))
        for module in (nn.utils, nn.utils.clip_grad):
            enter(replaced(module, "clip_grad_norm_", self._clip("norm", "max_norm")))
            enter(replaced(module, "clip_grad_value_", self._clip("value", "clip_value")))
        enter(replaced(Optimizer, "zero_grad", self._zero_grad))
        enter(replaced(nn.Module, "zero_grad", self._zero_grad))
        enter(replaced(torch.amp.GradScaler, "scale", self._scale))
        enter(replaced(torch.amp.GradScaler, "unscale_", self._unscale))
        enter(replaced(LRScheduler, "__init__", self._scheduler))
        enter(replaced(DataLoader, "__iter__", self._pass_begins))
        self._stack.callback(register_optimizer_step_pre_hook(self._before_step).remove)
        self._stack.callback(register_optimizer_step_post_hook(self._after_step).remove)
        self.recorder.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Torch is what it was; may be called again, and is to be after one within a call of a torch function."""
        if self._step is not None:
            self._step.close()
            self._step = None
        self.recorder.close()
        self._stack.close()
        if self.began is not None:
            self.recording.seconds = time.perf_counter() - self.began

    @no_type_check
    def _module_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module, *args, **kwargs):
            if self.recorder.fine:
                self.called.add(id(module))
            if self.inside or not self.recorder.on or not self._is_ours() or next(module.parameters(), None) is None:
                return original(module, *args, **kwargs)
            self._remember(module)
            self.inside = True
            try:
                return self.recorder.part(module, args, kwargs, original)
            finally:
                self.inside = False

        return call

    @no_type_check
    def _function(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A function with a backward of its own is one node: torch shows its calls to nobody."""

        def apply(cls, *args, **kwargs):
            def run(*args, **kwargs):
                return original.__func__(cls, *args, **kwargs)

            if not self.recorder.on or not self._is_ours():
                return run(*args, **kwargs)
            return self.recorder.function(run, args, kwargs)

        return classmethod(apply)

    @no_type_check
    def _gradient(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A gradient that a loss is made of, as for a gradient penalty, is one node."""

        @wraps(original)
        def grad(*args, **kwargs):
            if not self.recorder.on or not self._is_ours():
                return original(*args, **kwargs)
            return self.recorder.function(original, args, kwargs)

        return grad

    def _is_ours(self) -> bool:
        return threading.get_ident() == self._thread

    def _remember(self, module: nn.Module) -> None:
        """A module that is called from outside, and what it holds before the first step."""
        self.began = time.perf_counter() if self.began is None else self.began
        if not any(each is module for each in self.recording.modules):
            self.recording.modules.append(module)
            self._keep(held_tensors(module))

    def _keep(self, tensors: list[Tensor]) -> None:
        with self.recorder.paused():
            for tensor in tensors:
                self.recorder.held.add(id(tensor))
                if id(tensor) not in self.recording.initial:
                    self.recording.initial[id(tensor)] = (tensor, tensor.detach().clone())

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
            roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
            ours = self._is_ours()
            recorded = self.recorder.on and ours
            with self.recorder.paused():
                if (recorded or (self.resting and ours)) and len(roots) == 1 and roots[0].numel() == 1:
                    self.on_loss(self._unscaled(roots[0]))
                if recorded:
                    self._note_backward(roots, grad_tensors)
                result = original(tensors, grad_tensors, *args, **kwargs)
            if recorded:
                self.backwards += 1
                self.after_step(self.steps)
            return result

        return backward

    def _unscaled(self, root: Tensor) -> Tensor:
        """A loss before a gradient scaler multiplied it."""
        _, before, _ = self.scaled.get(id(root), (root, root, 1.0))
        return before.detach()

    def _note_backward(self, roots: list[Tensor], gradients: Any) -> None:
        forward, reason = None, "the recorded batches have used up their memory"
        simple = len(roots) == 1 and roots[0].numel() == 1
        if not simple:
            reason = "backward was called on something else than one number"
        elif self.bytes <= MOST_BYTES:
            try:
                forward, reason = self.recorder.forward(roots[0]), ""
            except UnplayableError as error:
                reason = str(error)
        self.bytes += 0 if forward is None else size(forward)
        value = roots[0].detach() if forward is None else forward.value
        self._note(
            Backward(
                value=value.clone(),
                forward=forward,
                alive=weakref.ref(roots[0]),
                reason=reason,
                scale=self.scaled[id(roots[0])][2] if id(roots[0]) in self.scaled else 1.0,
            )
        )

    def _note_reading(self, tensor: Tensor) -> None:
        """A number read outside of training, while few of them were."""
        if self.readings >= READINGS or not self._is_ours() or not tensor.is_floating_point():
            return
        with suppress(UnplayableError):
            forward = self.recorder.forward(tensor)
            if not forward.is_trained:
                self.readings += 1
                self._note(Reading(forward=forward))

    @no_type_check
    def _clip(self, kind: str, argument: str) -> Callable[..., Any]:
        def with_original(original):
            @wraps(original)
            def clip(parameters, *args, **kwargs):
                limit = args[0] if args else kwargs.get(argument)
                self._note(Clip(kind=kind, limit=float(limit)))
                with self.recorder.paused():
                    return original(parameters, *args, **kwargs)

            return clip

        return with_original

    @no_type_check
    def _zero_grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def zero_grad(owner, *args, **kwargs):
            number = self._number(owner) if isinstance(owner, Optimizer) else None
            self._note(ZeroGrad(optimizer=number))
            with self.recorder.paused():
                return original(owner, *args, **kwargs)

        return zero_grad

    @no_type_check
    def _scale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def scale(scaler, outputs):
            with self.recorder.paused():
                scaled = original(scaler, outputs)
            if isinstance(outputs, Tensor) and scaled is not outputs:
                self.recorder.alias(scaled, outputs)
                factor = 1.0 if self.resting else float(scaler.get_scale())  # reading it waits for a GPU
                self.scaled[id(scaled)] = (scaled, outputs, factor)
            return scaled

        return scale

    @no_type_check
    def _unscale(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def unscale(scaler, optimizer):
            if scaler.is_enabled():
                self._note(Unscale(optimizer=self._number(optimizer)))
            with self.recorder.paused():
                return original(scaler, optimizer)

        return unscale

    @no_type_check
    def _scheduler(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def made(scheduler, *args, **kwargs):
            self.recording.schedulers.append(scheduler)
            return original(scheduler, *args, **kwargs)

        return made

    @no_type_check
    def _pass_begins(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def begin(loader):
            if self._is_ours() and self.keep is None:  # a pass with gaps in it is no pass
                self._note(Pass(loader=id(loader), data=id(loader.dataset), length=length_of(loader)))
                self.loaders[id(loader)] = loader  # no other one gets its identity
            return original(loader)

        return begin

    def _note(self, event: Event) -> None:
        if not self.resting:
            self.recording.events.append(event)

    def _number(self, optimizer: Optimizer) -> int:
        known = self.recording.optimizers
        if not any(each is optimizer for each in known):
            known.append(optimizer)
        return next(index for index, each in enumerate(known) if each is optimizer)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note what the step starts from; the update itself is not recorded, its closure is."""
        if not self._is_ours():
            return None
        if not self.resting:
            self._keep([parameter for group in optimizer.param_groups for parameter in group["params"]])
        self.before_step()
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        self._step = ExitStack()
        if closure is None:
            self._step.enter_context(self.recorder.paused())
            return None
        self._step.enter_context(self.recorder.switched(False))
        return (optimizer, self._recorded(closure), *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    def _recorded(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        @wraps(closure)
        def run() -> Any:
            with self.recorder.switched(not self.resting):
                return closure()

        return run

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._step is None:
            return
        self._step.close()
        self._step = None
        settings = tuple({k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups)
        number = self._number(optimizer)
        self._note(Update(optimizer=number, settings=settings))
        self.recorder.forget()
        self.scaled.clear()
        self.first = number if self.first is None else self.first
        self.steps += number == self.first
        self.recorder.fine = self.steps < FINE_STEPS
        if self.keep is not None and number == len(self.recording.optimizers) - 1:
            self._thin_out(self.keep)
        self.after_step(self.steps)

    def _thin_out(self, keep: Keep) -> None:
        """At the end of a step of the training loop: forget what is not kept, and rest for the next one or do not."""
        if not self.resting:
            self._forget(keep)
        if self.steps < keep.first or self.steps % keep.every == 0:
            self.resting = not self.recorder.resume()
        else:
            self.recorder.rest()
            self.resting = True

    def _forget(self, keep: Keep) -> None:
        windows = self.recording.windows
        if len(windows) <= keep.first + keep.latest:
            return
        kept = [*windows[: keep.first], *windows[-keep.latest :]]
        self.recording.events[:] = [event for window in kept for event in window.events]
        forwards = [event.forward for window in kept for event in window.backwards]
        with self.recorder.paused():
            self.bytes = sum(size(forward) for forward in forwards if forward is not None)


@contextmanager
def replaced(owner: Any, name: str, made: Callable[[Any], Any]) -> Iterator[None]:
    """An attribute is what ``made`` gives for it while this is active; a class method is given as it is stored."""
    original = vars(owner).get(name, getattr(owner, name))
    setattr(owner, name, made(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def length_of(loader: DataLoader[Any]) -> int:
    """Batches in a pass over a loader; 0 where it does not know."""
    try:
        return len(loader)
    except TypeError:
        return 0


def size(forward: Forward) -> int:
    """Bytes of a recorded batch."""
    return sum(each.numel() * each.element_size() for each in forward.batch.values())
