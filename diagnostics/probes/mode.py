"""In which mode dropout and batch norm run while the user trains and while the user evaluates."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls

DROPOUTS = (F.dropout, torch.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout)
OFF_BY_DEFAULT = (F.alpha_dropout, F.feature_alpha_dropout)
RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")  # torch's own kernels, known by name alone
RATE_OF_HEADS, MODE_OF_HEADS = 10, 13  # places among the arguments of multi_head_attention_forward
RATE_OF_DOT_PRODUCT = 4


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Calls of layers that work otherwise in training than in evaluation.

    Args:
        dropouts / norms: calls of dropouts with a rate above zero, and of batch norms that keep running statistics.
        dropouts_on / norms_on: how many of them ran as in training.
    """

    dropouts: int
    dropouts_on: int
    norms: int
    norms_on: int

    @property
    def on(self) -> int:
        """All that ran as in training."""
        return self.dropouts_on + self.norms_on


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What ran in which mode. Every code is called with the model in train mode, as a training loop leaves it.

    Args:
        kept: in the loss, with the model held in train mode whatever the code asks for.
        loss: in the loss as the user computes it.
        frozen: parameters that need no gradient, in number of tensors.
        step: in the user's own step; None where the subject has none.
        evaluation: in the first model call of the user's own evaluation; None where the subject has none.
        evaluation_kept: the same with the model held in eval mode: what no switch turns off.
    """

    kept: Layers
    loss: Layers
    frozen: int
    step: Layers | None
    evaluation: Layers | None
    evaluation_kept: Layers | None


class LayerWatch(TorchCalls):
    """Counts the calls of dropout and batch norm, and how many work as in training."""

    def __init__(self) -> None:
        super().__init__()
        self.dropouts: list[bool] = []
        self.norms: list[bool] = []

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the call's own switch."""
        if func is F.batch_norm:
            if argument(args, kwargs, 1, "running_mean", None) is not None:
                self.norms.append(bool(argument(args, kwargs, 5, "training", False)))
        else:
            rate, training = dropping(func, args, kwargs)
            if rate > 0:
                self.dropouts.append(training)
        return func(*args, **kwargs)

    def seen(self) -> Layers:
        """The counts so far."""
        return Layers(
            dropouts=len(self.dropouts),
            dropouts_on=sum(self.dropouts),
            norms=len(self.norms),
            norms_on=sum(self.norms),
        )


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any) -> Any:
    """An argument of a call, wherever it stands."""
    return kwargs.get(name, args[place] if len(args) > place else default)


@no_type_check
def dropping(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, bool]:
    """Rate of the dropout in a call, and whether it is on; (0, False) where nothing is dropped.

    Attention by ``scaled_dot_product_attention`` has no switch: callers give it a rate of 0 in evaluation.
    """
    if func in DROPOUTS:
        on = argument(args, kwargs, 2, "training", func not in OFF_BY_DEFAULT)
        return argument(args, kwargs, 1, "p", 0.5), bool(on)
    if func is F.scaled_dot_product_attention:
        return argument(args, kwargs, RATE_OF_DOT_PRODUCT, "dropout_p", 0.0), True
    if func is F.multi_head_attention_forward:
        rate = argument(args, kwargs, RATE_OF_HEADS, "dropout_p", 0.0)
        return rate, bool(argument(args, kwargs, MODE_OF_HEADS, "training", True))
    if getattr(func, "__name__", "") in RECURRENT:
        place = next((i for i, each in enumerate(args) if isinstance(each, float)), None)
        layers = 0 if place is None else args[place - 1]
        return (args[place], bool(args[place + 1])) if layers > 1 else (0.0, False)
    return 0.0, False


@contextmanager
def held_in_mode(model: nn.Module, *, training: bool | None = None) -> Iterator[None]:
    """While this is active, the model stays in a mode (None: in which it is), whatever the code inside asks for."""
    modules = list(model.modules())
    before = [(module, module.training) for module in modules]
    if training is not None:
        model.train(training)
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(_deaf(module))
        try:
            yield
        finally:
            for module, mode in before:
                module.training = mode


@contextmanager
def _deaf(module: nn.Module) -> Iterator[None]:
    """``train()`` and ``eval()`` of this module do nothing."""
    kept: dict[str, Any] = {name: vars(module)[name] for name in ("train", "eval") if name in vars(module)}
    deaf: dict[str, Any] = {"train": lambda mode=True: module, "eval": lambda: module}
    vars(module).update(deaf)
    try:
        yield
    finally:
        for name in ("train", "eval"):
            del vars(module)[name]
        vars(module).update(kept)


class EnoughError(Exception):
    """Ends the user's evaluation after its first model call; never leaves this module."""


def mode(bench: Bench) -> Mode:
    """Which layers run as in training in the user's loss, step and evaluation."""
    subject, model, batch = bench.subject, bench.model, bench.batch(0)
    model.train()
    with held_in_mode(model, training=True):
        kept = watched(lambda: subject.loss(model, batch))
    loss = watched(lambda: subject.loss(model.train(), batch))
    step = evaluation = evaluation_kept = None
    if subject.step is not None:
        optimizer = subject.optimizer(model.train())
        step = watched(lambda: subject.step and subject.step(model, optimizer, batch))
    if subject.evaluate is not None:
        evaluate = subject.evaluate
        evaluation = first_call(model.train(), evaluate)
        with held_in_mode(model, training=False):
            evaluation_kept = first_call(model, evaluate)
    return Mode(
        kept=kept,
        loss=loss,
        frozen=sum(not parameter.requires_grad for parameter in model.parameters()),
        step=step,
        evaluation=evaluation,
        evaluation_kept=evaluation_kept,
    )


def watched(run: Callable[[], object]) -> Layers:
    """What is called while this runs."""
    with LayerWatch() as watch:
        run()
    return watch.seen()


def first_call(model: nn.Module, evaluate: Callable[[nn.Module], object]) -> Layers:
    """What the evaluation calls until the model has answered once."""

    def after(*_: object) -> None:
        raise EnoughError

    handle = model.register_forward_hook(after)
    with suppress(EnoughError), LayerWatch() as watch:
        try:
            evaluate(model)
        finally:
            handle.remove()
    return watch.seen()


MODE = Probe(
    name="mode",
    question="In which mode do dropout and batch norm run in training and in evaluation?",
    measure=mode,
)
