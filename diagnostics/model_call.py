"""The outermost call of a stranger's model: what it is given, and the same call with its arguments edited.

Everything happens in forward hooks while the subject's own code runs, so whatever surrounds that code (another
intervention's hooks and modes) takes part as it does in training.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from diagnostics.bench import random_tokens
from diagnostics.subject import Batch, TokenView
from diagnostics.watch import ForwardWatch

SINGLE = 1e-3  # relative; rounding alone makes 1e-5 of it, a mask that is not read makes 0.1 and more

Edit = Callable[[str, Tensor], Tensor]
"""Name and value of a tensor argument -> the value that the model gets instead."""


class CallSeenError(Exception):
    """Ends the subject's code as soon as the model call has told what was asked; never leaves this module."""


def argument_names(model: nn.Module) -> Callable[[int], str]:
    """Position of an argument -> its name in the signature of ``forward``, or "argument 2" where it has none."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in positional]
    return lambda index: named[index] if index < len(named) else f"argument {index}"


@contextmanager
def replaced_forward(model: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    """The model's own ``forward`` is another function while this is active; its hooks still run around it."""
    outer = vars(model).get("forward")
    forward.__signature__ = inspect.signature(model.forward)  # type: ignore[attr-defined]
    model.forward = forward
    try:
        yield
    finally:
        if outer is None:
            del model.forward
        else:
            model.forward = outer


@contextmanager
def edited_arguments(model: nn.Module, edit: Edit) -> Iterator[None]:
    """Every tensor argument of every call of the model passes through ``edit`` while this is active.

    The edit comes after the model's own pre-hooks and after edits that are activated later, further inside: what
    wraps around a changed subject sees, and has the last word on, what that subject really gives its model.
    """
    name, forward = argument_names(model), model.forward

    def edited(*args: Any, **kwargs: Any) -> Any:
        given = [edit(name(i), each) if isinstance(each, Tensor) else each for i, each in enumerate(args)]
        named = {key: edit(key, each) if isinstance(each, Tensor) else each for key, each in kwargs.items()}
        return forward(*given, **named)

    with replaced_forward(model, edited):
        yield


def call_arguments(model: nn.Module, run: Callable[[], object]) -> dict[str, Shaped[Tensor, "..."]]:
    """Tensor arguments by name that the model gets in ``run``; the model itself is not computed.

    Empty where ``run`` never calls the model.
    """
    name, seen = argument_names(model), dict[str, Tensor]()

    def stop(*args: Any, **kwargs: Any) -> None:
        given = {name(i): each for i, each in enumerate(args)} | kwargs
        seen.update({key: each for key, each in given.items() if isinstance(each, Tensor)})
        raise CallSeenError

    with suppress(CallSeenError), replaced_forward(model, stop):
        run()
    return seen


def call_outputs(model: nn.Module, run: Callable[[], object]) -> list[Float[Tensor, "..."]]:
    """Floating-point tensors that the model's first call in ``run`` returns, before a softmax where one is the last.

    What ``run`` does with them is not computed. Empty where ``run`` never calls the model.
    """
    seen: list[Tensor] = []

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.extend(tensor for tensor in tensors_in(output) if tensor.is_floating_point())
        raise CallSeenError

    handle = model.register_forward_hook(after)
    with suppress(CallSeenError), ForwardWatch() as watch:
        try:
            run()
        finally:
            handle.remove()
    return [before_softmax(watch, tensor).detach() for tensor in seen]


def tensors_in(value: Any) -> Iterator[Shaped[Tensor, "..."]]:
    """The tensors in nested tuples, lists and mappings (which Hugging Face's outputs and batches are)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from (tensor for each in value.values() for tensor in tensors_in(each))
    elif isinstance(value, tuple | list):
        yield from (tensor for each in value for tensor in tensors_in(each))


def before_softmax(watch: ForwardWatch, result: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What went into the softmax that gave this tensor or the tensor it is a slice of; itself if none did.

    A saturated softmax hides what moves; its input does not.
    """
    for given, after, _ in reversed(watch.softmaxes):
        if after.untyped_storage().data_ptr() == result.untyped_storage().data_ptr() and after.is_contiguous():
            return given.contiguous().as_strided(result.size(), result.stride(), result.storage_offset())
    return result


@torch.no_grad()
def raw_logits(view: TokenView, model: nn.Module, batch: Batch) -> Float[Tensor, "batch time vocab"]:
    """The subject's logits, before a softmax where its model ends in one; the same random numbers in every call.

    Dropout in a module that the model does not list stays on in evaluation mode, and must not pass for a movement.

    Raises:
        ValueError: they are not finite; nothing can be told from them.
    """
    torch.manual_seed(0)  # a bench's randomness is its own
    with ForwardWatch() as watch:
        result = view.logits(model, batch)
        scores = before_softmax(watch, result)
    if not torch.isfinite(scores).all():
        raise ValueError("the logits hold NaN or infinity; find the first module that gives them")
    return scores


def random_batch(view: TokenView, model: nn.Module, batch: Batch, rows: int, seed: int) -> Batch:
    """This batch made from uniformly random tokens: ``rows`` rows where view and model can, else as many as it has.

    Sets the model to eval mode.
    """
    stream = view.tokens(batch)
    model.eval()
    with suppress(Exception):  # other parts of a stranger's batch may insist on its own number of rows
        resized = view.with_tokens(batch, random_tokens(view, stream[:1].expand(rows, -1), seed))
        if len(raw_logits(view, model, resized)) == len(view.targets(resized)) == rows:
            return resized
    return view.with_tokens(batch, random_tokens(view, stream, seed))


def in_double(model: nn.Module, works: Callable[[nn.Module], object]) -> nn.Module:
    """The model in eval mode and double precision, or as it is (in eval mode) where that does not work.

    It does not where ``works`` raises on the double one, or gives something else than before by more than single
    precision explains: a mask that a stranger's forward makes in single precision is read as garbage by some of torch's
    kernels when the scores are double.

    Changes its argument: for the bench's private copies.
    """
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    model.eval()
    before: list[Tensor] = []
    with suppress(Exception):  # what does not come out in single precision may in double
        before += floats_in(works(model)) if torch.float32 in dtypes.values() else ()
    model.double()
    try:
        after = list(floats_in(works(model)))
        if before and not all(map(same_to_single, before, after)):
            raise ValueError("the double model computes something else")
    except Exception:  # a stranger's forward may make single-precision tensors that refuse to meet double ones
        model.float()
        if torch.bfloat16 in dtypes.values() or torch.float16 in dtypes.values():
            model.to(next(d for d in dtypes.values() if d in (torch.bfloat16, torch.float16)))
    return model


def floats_in(value: Any) -> Iterator[Float[Tensor, "..."]]:
    """The floating-point tensors in what a call gives."""
    return (tensor.detach().clone() for tensor in tensors_in(value) if tensor.is_floating_point())


def same_to_single(one: Float[Tensor, "..."], other: Float[Tensor, "..."]) -> bool:
    """Whether two results are the same to what single precision makes of sums over some thousand terms."""
    if one.shape != other.shape:
        return False
    scale = float(one.double().abs().amax()) if one.numel() else 0.0
    return torch.allclose(one.double(), other.double(), rtol=SINGLE, atol=SINGLE * max(scale, 1e-12), equal_nan=True)


def rounding(scores: Float[Tensor, "..."]) -> float:
    """How far numbers of this precision may move by rounding alone, in units of their standard deviation.

    Ours: three to four digits above the precision itself (2e-16, 1e-7), for sums over a few thousand terms.
    """
    return 1e-9 if scores.dtype == torch.float64 else 1e-4


def shift_of(view: TokenView, batch: Batch, values: Int[Tensor, "batch length"]) -> int | None:
    """The k for which values[:, i] is target i - k of this batch wherever both exist; None where there is none.

    1 is an ordinary input, 0 are the targets themselves. At least half of the targets must be met, those that the loss
    leaves out (by the view, or because they are negative) match anything.
    """
    targets = view.targets(batch)
    free = targets < 0 if view.ignored is None else view.ignored(batch) | (targets < 0)
    length, time = values.shape[1], targets.shape[1]
    for shift in sorted(range(-(time // 2), time // 2 + 1), key=lambda k: abs(2 * k - 1)):
        first, last = max(0, shift), min(length, time + shift)
        met = slice(first - shift, last - shift)
        if last - first < max(1, time // 2) or len(values) != len(targets):
            continue
        same = (values[:, first:last] == targets[:, met]) | free[:, met]
        if same.all() and not free[:, met].all():
            return shift
    return None
