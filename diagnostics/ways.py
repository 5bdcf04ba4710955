"""Ways to get a loss from a stranger's model, batch and loss function, tried in a fixed order.

What is tried first is what can only work when it is right; what might work by accident comes last.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diagnostics.leaves import leaves, parts_of_batch, shapes
from diagnostics.subject import Batch
from diagnostics.watch import LOSSES, TorchCalls

LABELS = ("labels", "label", "targets", "target", "tgt_out", "trg_out", "y", "labels_ids", "lm_labels")
DECODER_SIDE = ("tgt", "trg", "target", "targets")
SOURCE_SIDE = ("src", "source", "inputs", "input")
ABOUT_BATCH = ("batch", "data", "tokens", "sample", "samples", "example", "input_ids", "ids", "x")
SHOWN = 5  # tried ways in an error message, each with another error
LINE = 110  # letters of somebody else's error in ours


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to a loss; ``said`` is the expression."""

    said: str
    loss: Callable[[nn.Module, Batch], Any]
    shifts: bool = False  # it is right only where the loss function itself compares with the next token


@dataclass(frozen=True, kw_only=True)
class Call:
    """One way to call a model with a batch, and what its output is compared with."""

    said: str
    output: Callable[[nn.Module, Batch], Any]
    compared: str = ""
    targets: Callable[[Batch], Shaped[Tensor, "..."]] | None = None


def calls(model: nn.Module, batch: Batch, batch_axis: int) -> Iterator[Call]:
    """How the model may be called, and with what its output may be compared, the most likely first."""
    if isinstance(batch, Tensor):
        yield from tensor_calls(batch, batch_axis)
    elif isinstance(batch, tuple | list):
        yield from tuple_calls(batch, batch_axis)
    else:
        yield from named_calls(model, batch, batch_axis)


def tensor_calls(batch: Shaped[Tensor, "..."], batch_axis: int) -> Iterator[Call]:
    """Whole numbers are tokens, and each is compared with the next; other numbers are compared with themselves."""
    if batch.is_floating_point() or batch.is_complex():
        yield Call(said="model(batch)", output=lambda model, x: model(x), compared="batch", targets=lambda x: x)
    elif batch.dim() == 2:
        first, last = sides(batch_axis)
        yield Call(
            said=f"model(batch{spelt_side(batch_axis, ':-1')})",
            output=lambda model, x: model(first(x)),
            compared=f"batch{spelt_side(batch_axis, '1:')}",
            targets=last,
        )


def tuple_calls(batch: tuple[Any, ...] | list[Any], batch_axis: int) -> Iterator[Call]:
    """(inputs, targets); (source, decoder input, targets); (source, target), where the decoder reads the target."""
    first, last = sides(batch_axis)
    yield Call(
        said="model(*batch[:-1])",
        output=lambda model, b: model(*b[:-1]),
        compared="batch[-1]",
        targets=lambda b: b[-1],
    )
    if len(batch) != 2:
        yield Call(said="model(batch[0])", output=lambda m, b: m(b[0]), compared="batch[1]", targets=lambda b: b[1])
        return
    if is_sequence(batch[1]) and not follows(batch[0], batch[1], batch_axis):
        yield Call(
            said=f"model(batch[0], batch[1]{spelt_side(batch_axis, ':-1')})",
            output=lambda model, b: model(b[0], first(b[1])),
            compared=f"batch[1]{spelt_side(batch_axis, '1:')}",
            targets=lambda b: last(b[1]),
        )
    yield Call(said="model(*batch)", output=lambda m, b: m(*b), compared="batch[1]", targets=lambda b: b[1])


def named_calls(model: nn.Module, batch: Batch, batch_axis: int) -> Iterator[Call]:
    """Dicts and objects: by the names that ``forward`` takes, and in order."""
    fields = parts_of_batch(batch)
    label = next((key for key in LABELS if key in fields), None)
    taken = names_taken(model, fields)
    first, last = sides(batch_axis)
    source = next((key for key in SOURCE_SIDE if key in fields), None)
    target = next((key for key in DECODER_SIDE if key in fields and is_sequence(fields[key])), None)
    if label is not None:
        others = [key for key in fields if key != label]
        named = [key for key in taken if key != label]
        yield Call(
            said=f"model({', '.join(f'{key}=batch[{key!r}]' for key in named)})",
            output=lambda model, b: model(**{key: parts_of_batch(b)[key] for key in named}),
            compared=f"batch[{label!r}]",
            targets=lambda b: parts_of_batch(b)[label],
        )
        yield Call(
            said=f"model({', '.join(f'batch[{key!r}]' for key in others)})",
            output=lambda model, b: model(*(parts_of_batch(b)[key] for key in others)),
            compared=f"batch[{label!r}]",
            targets=lambda b: parts_of_batch(b)[label],
        )
        yield Call(
            said="model(**batch)",
            output=lambda model, b: model(**parts_of_batch(b)),
            compared=f"batch[{label!r}]",
            targets=lambda b: parts_of_batch(b)[label],
        )
    if source is not None and target is not None:
        yield Call(
            said=f"model(batch[{source!r}], batch[{target!r}]{spelt_side(batch_axis, ':-1')})",
            output=lambda model, b: model(parts_of_batch(b)[source], first(parts_of_batch(b)[target])),
            compared=f"batch[{target!r}]{spelt_side(batch_axis, '1:')}",
            targets=lambda b: last(parts_of_batch(b)[target]),
        )


def plain_calls(model: nn.Module, batch: Batch) -> Iterator[Call]:
    """Calls of the model that compare nothing: for models, or loss functions, that know the targets themselves."""
    if not isinstance(batch, Tensor | tuple | list):
        yield Call(said="model(**batch)", output=lambda m, b: m(**parts_of_batch(b)))
        if label := next((key for key in LABELS if key in parts_of_batch(batch)), None):
            taken = [key for key in names_taken(model, parts_of_batch(batch)) if key != label]
            yield Call(
                said=f"model({', '.join(f'{key}=batch[{key!r}]' for key in taken)})",
                output=lambda m, b: m(**{key: parts_of_batch(b)[key] for key in taken}),
            )
    if isinstance(batch, tuple | list):
        yield Call(said="model(*batch)", output=lambda m, b: m(*b))
        yield Call(said="model(*batch[:-1])", output=lambda m, b: m(*b[:-1]))
        for name in ("labels", "targets", "target", "y"):
            if name in parameters_of(model.forward):
                yield Call(said=f"model(*batch[:-1], {name}=batch[-1])", output=partial(_named_last, name))
    yield Call(said="model(batch)", output=lambda m, b: m(b))


def _named_last(name: str, model: nn.Module, batch: Batch) -> Any:
    return model(*batch[:-1], **{name: batch[-1]})


def ways(model: nn.Module, batch: Batch, loss_fn: Callable[..., Any] | None, batch_axis: int) -> Iterator[Way]:
    """Every way from this model, batch and loss function to a loss, in the order in which they are tried."""
    if loss_fn is None:
        yield from own_losses(model, batch, batch_axis)
        return
    if not is_library(loss_fn):
        yield Way(said="loss_fn(model, batch)", loss=loss_fn)
        if isinstance(batch, tuple | list):
            yield Way(said="loss_fn(model, *batch)", loss=lambda m, b: loss_fn(m, *b))
        yield from given_batch(model, batch, loss_fn)
    for call in calls(model, batch, batch_axis):
        yield from given_targets(call, loss_fn)


def given_batch(model: nn.Module, batch: Batch, loss_fn: Callable[..., Any]) -> Iterator[Way]:
    """loss_fn(output, batch), with the output as it is and as one tensor."""
    names = list(parameters_of(loss_fn))
    shifts = isinstance(batch, Tensor) and not (len(names) > 1 and names[1] in ABOUT_BATCH)
    for call in plain_calls(model, batch):
        whole = partial(_of_batch, loss_fn, call.output)
        yield Way(said=f"loss_fn({call.said}, batch)", loss=whole, shifts=shifts)
        one = partial(_of_batch, loss_fn, partial(_as_one, call))
        yield Way(said=f"loss_fn({call.said} as one tensor, batch)", loss=one, shifts=shifts)


def _as_one(call: Call, model: nn.Module, batch: Batch) -> Any:
    return primary(call.output(model, batch))


def _of_batch(
    loss_fn: Callable[..., Any], output: Callable[[nn.Module, Batch], Any], model: nn.Module, batch: Batch
) -> Any:
    return loss_fn(output(model, batch), batch)


def given_targets(call: Call, loss_fn: Callable[..., Any]) -> Iterator[Way]:
    """loss_fn(output, targets): as it is, as one tensor, and with a row per target."""
    assert call.targets is not None
    aim = call.targets

    def flat(model: nn.Module, batch: Batch) -> Any:
        scores, targets = primary(call.output(model, batch)), aim(batch)
        if scores.shape[:-1] != targets.shape or scores.dim() < 3:
            raise ValueError(f"output {list(scores.shape)} has no row of classes per target {list(targets.shape)}")
        return loss_fn(scores.reshape(-1, scores.shape[-1]), targets.reshape(-1))

    said = f"{call.said}, {call.compared}"
    rows = Way(said=f"loss_fn({said}), a row per target", loss=flat)
    one = Way(
        said=f"loss_fn({said}), the output as one tensor",
        loss=lambda m, b: loss_fn(primary(call.output(m, b)), aim(b)),
    )
    whole = (Way(said=f"loss_fn({said})", loss=lambda m, b: loss_fn(call.output(m, b), aim(b))), one)
    # torch's own cross-entropy takes the second axis for the classes; where the last one fits the targets, it is that
    yield from (rows, *whole) if takes_classes(loss_fn) else (*whole, rows)


def own_losses(model: nn.Module, batch: Batch, batch_axis: int) -> Iterator[Way]:
    """The loss that the model returns itself; for a tensor of tokens also the cross-entropy of the next token."""
    for call in plain_calls(model, batch):
        yield Way(said=f"the loss in {call.said}", loss=partial(_own_loss, call))
    if isinstance(batch, Tensor):
        for call in tensor_calls(batch, batch_axis):
            if not batch.is_floating_point():
                yield from given_targets(call, F.cross_entropy)
        first, last = sides(batch_axis)
        yield Way(
            said=f"the loss in model(batch{spelt_side(batch_axis, ':-1')}, batch{spelt_side(batch_axis, '1:')})",
            loss=lambda m, b: loss_in(m(first(b), last(b))),
        )


def _own_loss(call: Call, model: nn.Module, batch: Batch) -> Any:
    return loss_in(call.output(model, batch))


def find_way(
    model: nn.Module, batch: Batch, loss_fn: Callable[..., Any] | None, batch_axis: int
) -> tuple[Way, Float[Tensor, ""]]:
    """The first way that gives a scalar loss on this (private) model, and that loss.

    Raises:
        ValueError: none does; says what was tried, on which shapes, and the way out.
    """
    tried, count = dict[str, str](), 0
    for way in ways(model, batch, loss_fn, batch_axis):
        try:
            with warnings.catch_warnings(), ClassLosses() as watch:
                warnings.simplefilter("ignore")
                loss = scalar(way.loss(model, batch))
            if way.shifts and not compares_with_fewer(watch, batch):
                raise ValueError("it compares every output with the token at its own place")
            return way, loss
        except Exception as error:  # a stranger's code, called in a way that may be wrong
            tried.setdefault(f"{type(error).__name__}: {' '.join(str(error).split())}"[:LINE], way.said)
            count += 1
    listed = "; ".join(f"{said} -> {error}" for error, said in list(tried.items())[:SHOWN])
    more = f" ({count} ways in all)" if count > SHOWN else ""
    wants = "no loss_fn was given, and the model returned no loss" if loss_fn is None else "loss_fn gave no loss"
    raise ValueError(
        f"cannot tell how to get a loss from this model and batch ({shapes(batch)}): {wants}. Tried {listed}{more}. "
        "Pass a function of the model and the batch that returns the loss: diagnose(model, batch, "
        "lambda model, batch: ...)"
    )


def scalar(loss: Any) -> Float[Tensor, ""]:
    """The loss as a tensor without axes; raises ValueError where it is none."""
    if not isinstance(loss, Tensor):
        raise ValueError(f"the loss must be a tensor, not {type(loss).__name__}")
    if not loss.is_floating_point() or loss.numel() != 1:
        raise ValueError(f"the loss must be one number; it is {str(loss.dtype)[6:]} {list(loss.shape)}: reduce it")
    return loss.reshape(())


def loss_in(output: Any) -> Float[Tensor, "..."]:
    """The loss in what a model returns: the output itself, ``.loss``, ``["loss"]`` or a number in a tuple.

    Raises:
        ValueError: there is none.
    """
    if isinstance(output, Tensor) and output.numel() == 1 and output.dim() < 2:
        return output
    fields = {} if isinstance(output, Tensor) else parts_of_batch(output)
    if isinstance(fields.get("loss"), Tensor):
        return fields["loss"]
    if isinstance(output, tuple | list):
        numbers = [each for each in output if isinstance(each, Tensor) and each.dim() == 0 and each.is_floating_point()]
        if numbers:
            return numbers[0]
    raise ValueError(f"the model returned no loss but {described(output)}")


def primary(output: Any) -> Shaped[Tensor, "..."]:
    """The predictions in what a model returns: a tensor, ``.logits``, ``["logits"]``, the first floating one of others.

    Raises:
        ValueError: there is none.
    """
    if isinstance(output, Tensor):
        return output
    fields = parts_of_batch(output)
    named = [fields.get(key) for key in ("logits", "prediction", "predictions", "output", "outputs")]
    tensors = [leaf for _, leaf in leaves(output) if leaf.is_floating_point() and leaf.dim() > 0]
    for each in (*named, *tensors):
        if isinstance(each, Tensor):
            return each
    raise ValueError(f"the model returned no predictions but {described(output)}")


def described(output: Any) -> str:
    """Type and shapes of an output in words."""
    said = shapes(output).replace("batch", "output")
    return said if isinstance(output, Tensor) else f"a {type(output).__name__} ({said})"


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """One call of a classification loss as it was made: rows of scores, flat targets, the other arguments."""

    function: Callable[..., Any]
    rows: Float[Tensor, "targets classes"]
    targets: Shaped[Tensor, " targets"]
    options: dict[str, Any]
    value: Float[Tensor, "..."]

    @property
    def ignore_index(self) -> int:
        """The target that is left out."""
        return int(self.options.get("ignore_index", -100))


class ClassLosses(TorchCalls):
    """Every call of cross_entropy or nll_loss with whole-number targets while this is active."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.seen: list[ClassLoss] = []
        self.stop_at = stop_at

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and note it; stop the subject's code at the call that was asked for."""
        if func not in LOSSES:
            return func(*args, **kwargs)
        names = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing")
        given = dict(zip(names, args, strict=False)) | kwargs
        scores, targets = given.pop("input"), given.pop("target")
        stops = self.stop_at is not None and len(self.seen) == self.stop_at
        value = scores.detach() if stops else func(*args, **kwargs)
        if not targets.is_floating_point() and scores.dim() > 1:
            rows = scores.movedim(1, -1).reshape(-1, scores.shape[1])
            self.seen.append(
                ClassLoss(function=func, rows=rows, targets=targets.reshape(-1), options=given, value=value)
            )
            if stops:
                raise LossSeenError
        return value


class LossSeenError(Exception):
    """Ends the subject's code as soon as its loss is given what was asked for; never leaves the package."""


def compares_with_fewer(watch: ClassLosses, batch: Shaped[Tensor, "..."]) -> bool:
    """Whether a classification loss was seen that does not compare with every token of the batch at its own place."""
    return bool(watch.seen) and not torch.equal(watch.seen[-1].targets, batch.reshape(-1))


def is_library(loss_fn: Callable[..., Any]) -> bool:
    """Whether this is torch's own loss: it takes outputs and targets, and nothing else."""
    module = type(loss_fn).__module__ if isinstance(loss_fn, nn.Module) else getattr(loss_fn, "__module__", None) or ""
    return module.startswith("torch.nn") or loss_fn in (F.mse_loss, F.l1_loss)


def takes_classes(loss_fn: Callable[..., Any]) -> bool:
    """Whether this is torch's own loss over classes."""
    return loss_fn in LOSSES or isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss)


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; none where it does not tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def names_taken(model: nn.Module, fields: Mapping[str | int, Any]) -> list[Any]:
    """Those of the fields that ``forward`` takes by name."""
    known = parameters_of(model.forward)
    free = any(each.kind == inspect.Parameter.VAR_KEYWORD for each in known.values())
    return [key for key in fields if free or key in known]


def sides(batch_axis: int) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """All tokens but the last of each sample, and all but the first."""
    if batch_axis == 1:
        return lambda x: x[:-1].contiguous(), lambda x: x[1:].contiguous()
    return lambda x: x[:, :-1].contiguous(), lambda x: x[:, 1:].contiguous()


def spelt_side(batch_axis: int, part: str) -> str:
    """The index that takes a part of the time axis."""
    return f"[{part}]" if batch_axis == 1 else f"[:, {part}]"


def is_sequence(value: Any) -> bool:
    """Whether this is a table of whole numbers with more than one per sample."""
    return isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point() and min(value.shape) > 1


def follows(inputs: Any, targets: Any, batch_axis: int) -> bool:
    """Whether the targets are the inputs, one token later."""
    if not is_sequence(inputs) or inputs.shape != targets.shape:
        return False
    first, last = sides(batch_axis)
    return torch.equal(last(inputs), first(targets))
