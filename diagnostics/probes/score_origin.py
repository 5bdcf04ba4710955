"""Where the rows of scores come from in the model's output, and which token of the input each is compared with.

Two gradients tell it for all rows at once: of the sum of all rows, and of the sum of row r times r + 1. Wherever an
entry of the output feeds a single row, the quotient of the two is r + 1, whatever is done to the row on the way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import argument_names, edited_arguments, tensors_in
from diagnostics.probe import Probe
from diagnostics.probes.loss_account import given_rows, wanted_rows
from diagnostics.watch import LossCall, watched_loss

ENOUGH = 8  # targets that must meet a token before a shift is believed
TYPES = 3  # different ones among them


@dataclass(frozen=True, kw_only=True)
class ArgumentShift:
    """Which tokens of one argument the targets equal.

    Args:
        argument: its name.
        shift: k where the target of each position t is the argument's token t + k, as far as both exist: 1 is the next
            token, 0 the token at hand. None: there is no such k.
        crossed_shift: the same if rows and targets run through samples and positions in opposite orders.
        other_rows: share of the samples whose targets are the next tokens of another sample, and not of their own.
        read: whether other tokens there give another output; labels that only the loss reads do not.
    """

    argument: str
    shift: int | None
    crossed_shift: int | None
    other_rows: float
    read: bool = True


@dataclass(frozen=True, kw_only=True)
class ScoreOrigin:
    """How rows of scores, outputs and tokens belong together, for each loss call with as many rows as targets.

    Args:
        model_calls: how often the model was called for one loss.
        rows: rows of scores of the last loss call; 0 where none was seen.
        classes: width of a row.
        output: shape of the model's output that they come from; empty where it was not found.
        first: the first position (along the axis of positions) that feeds a row.
        single: whether every entry of the output feeds at most one row.
        mixed: whether rows are made of entries of several positions of the output.
        target_sum_error: of soft targets, largest distance of their sums over the classes from 1; None for classes.
        target_sum_error_last: the same, summed over the last axis.
        arguments: the model's arguments of whole numbers that have the output's samples and positions; those of all
            loss calls.
    """

    model_calls: int = 0
    rows: int = 0
    classes: int = 0
    output: tuple[int, ...] = ()
    first: int = 0
    single: bool = False
    mixed: bool = False
    target_sum_error: float | None = None
    target_sum_error_last: float | None = None
    arguments: tuple[ArgumentShift, ...] = ()


@dataclass
class ModelCalls:
    """The model's calls: tensor arguments by name, and floating-point outputs with their graph."""

    arguments: list[dict[str, Tensor]] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)


@contextmanager
def seen_calls(model: nn.Module) -> Iterator[ModelCalls]:
    """Inside, every call of the model is noted."""
    calls, name = ModelCalls(), argument_names(model)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = {name(i): each for i, each in enumerate(args)} | kwargs
        calls.arguments.append({key: each for key, each in given.items() if isinstance(each, Tensor)})
        calls.outputs.append([each for each in tensors_in(output) if each.is_floating_point()])

    handle = model.register_forward_hook(after, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def score_origin(bench: Bench) -> ScoreOrigin:
    """Origins of the rows of the fresh model's scores on the first batch."""
    model = bench.model.eval()
    with seen_calls(model) as calls:
        _, watch = watched_loss(bench.subject, model, bench.batch(0))
    usable = [call for call in watch.losses if call.given is not None and call.given.requires_grad]
    if not usable or not calls.outputs:
        return ScoreOrigin(model_calls=len(calls.outputs))
    found = [origin_of(call, calls, bench.subject.batch_axis) for call in usable[:4]]
    unusual = any(each.shift not in (None, 0, 1) for one in found for each in one.arguments)
    read = read_arguments(bench, model, calls) if unusual else None
    last = found[-1]
    own, last_axis = soft_sums(usable[-1])
    return ScoreOrigin(
        model_calls=len(calls.outputs),
        rows=last.rows,
        classes=last.classes,
        output=last.output,
        first=last.first,
        single=last.single,
        mixed=last.mixed,
        target_sum_error=own,
        target_sum_error_last=last_axis,
        arguments=tuple(
            replace(each, read=read is None or each.argument in read) for one in found for each in one.arguments
        ),
    )


def read_arguments(bench: Bench, model: nn.Module, calls: ModelCalls) -> set[str]:
    """Arguments of whole numbers whose tokens make a difference to the model's output."""
    read = set()
    for name, value in calls.arguments[0].items():
        if value.is_floating_point() or value.dtype == torch.bool or value.dim() != 2:
            continue
        other = torch.where(value > 0, (value - 1).clamp_min(0), value)  # negative ones may be ignored labels

        def edit(argument: str, given: Tensor, name: str = name, other: Tensor = other) -> Tensor:
            return other if argument == name else given

        with torch.no_grad(), seen_calls(model) as edited, edited_arguments(model, edit):
            bench.loss(model)
        pairs = zip(largest_first(calls.outputs[0]), largest_first(edited.outputs[0]), strict=False)
        if any(a.shape == b.shape and not torch.equal(a, b) for a, b in list(pairs)[:1]):
            read.add(name)
    return read


def largest_first(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors with the largest one, which are the scores rather than a loss, in front."""
    return sorted((each.detach() for each in tensors), key=lambda each: -each.numel())


def first_position(fed: Shaped[Tensor, "..."], batch_axis: int) -> int:
    """The first index along the axis of positions (the one of the first two that is not the samples') that feeds."""
    return int(fed.any(-1).any(batch_axis).float().argmax())


def soft_sums(call: LossCall) -> tuple[float | None, float | None]:
    """How far sums of target probabilities are from one: over the classes' axis, over the last axis."""
    wanted = call.wanted
    if wanted is None or not wanted.is_floating_point() or wanted.dim() < 2:
        return None, None
    return float((wanted.sum(1) - 1).abs().max()), float((wanted.sum(-1) - 1).abs().max())


def origin_of(call: LossCall, calls: ModelCalls, batch_axis: int) -> ScoreOrigin:
    """Origins of one loss call's rows in the output of the model's only call."""
    rows = given_rows(call)
    known = ScoreOrigin(rows=rows.shape[0], classes=rows.shape[1])
    if len(calls.outputs) != 1:
        return known
    for output in calls.outputs[0]:
        if not output.requires_grad or output.dim() < 2 or not rows.requires_grad:
            continue
        feeds = fed_rows(rows, output)
        if feeds is None:
            continue
        row, fed, single = feeds
        axis = constant_axis(row, fed, rows.shape[1])
        return ScoreOrigin(
            rows=rows.shape[0],
            classes=rows.shape[1],
            output=tuple(output.shape),
            first=first_position(fed, batch_axis) if output.dim() == 3 else 0,
            single=single,
            mixed=single and axis is None and output.dim() > 2,
            arguments=()
            if axis is None or not single
            else shifts(call, calls.arguments[0], row, fed, axis, batch_axis),
        )
    return known


def fed_rows(
    rows: Float[Tensor, "rows classes"], output: Float[Tensor, "..."]
) -> tuple[Int[Tensor, "..."], Shaped[Tensor, "..."], bool] | None:
    """For each entry of the output: the row that it feeds, whether it feeds any, and whether all feed one at most."""
    weights = torch.rand(rows.shape[1], dtype=rows.dtype, device=rows.device) + 0.5
    sums = (rows * weights).sum(-1)
    number = torch.arange(1, len(sums) + 1, dtype=rows.dtype, device=rows.device)
    (once,) = torch.autograd.grad(sums.sum(), output, retain_graph=True, allow_unused=True)
    if once is None:
        return None
    (times,) = torch.autograd.grad((sums * number).sum(), output, retain_graph=True)
    once, times = once.double(), times.double()
    fed = once.abs() > 1e-3 * once.abs().mean()  # what nearly cancels tells nothing
    quotient = torch.where(fed, times / torch.where(fed, once, 1.0), 1.0)
    row = quotient.round()
    away = (quotient - row).abs() / row.abs().clamp_min(1.0)
    return (row - 1).long(), fed, bool(fed.any()) and float(away.max()) < 1e-4


def constant_axis(row: Int[Tensor, "..."], fed: Shaped[Tensor, "..."], classes: int) -> int | None:
    """The axis of the classes: along it, all entries feed the same row. The last one first."""
    as_long = [axis for axis in reversed(range(row.dim())) if row.shape[axis] == classes]
    for axis in as_long or reversed(range(row.dim())):  # no axis is as long where the head belongs to the loss
        high = row.masked_fill(~fed, -1).amax(axis)
        low = row.masked_fill(~fed, row.max() + 1).amin(axis)
        if bool(((high == low) | (high < 0)).all()):
            return axis
    return None


def shifts(
    call: LossCall,
    arguments: dict[str, Tensor],
    row: Int[Tensor, "..."],
    fed: Shaped[Tensor, "..."],
    axis: int,
    batch_axis: int,
) -> tuple[ArgumentShift, ...]:
    """Which tokens of each argument the targets of a sequence model's positions equal."""
    if row.dim() != 3:
        return ()
    at = row.masked_fill(~fed, -1).amax(axis)  # the row that each position feeds; -1 for none
    wanted = wanted_rows(call)
    crossed = crossed_targets(wanted, at)
    found = []
    for name, value in arguments.items():
        if value.dim() != 2 or value.is_floating_point() or value.dtype == torch.bool or value.shape != at.shape:
            continue
        tokens = value.movedim(batch_axis, 0)
        targets = torch.where(at >= 0, wanted[at.clamp_min(0)], -1).movedim(batch_axis, 0)
        shift = shift_between(tokens, targets)
        opposite = None if crossed is None or shift is not None else crossed.movedim(batch_axis, 0)
        found.append(
            ArgumentShift(
                argument=name,
                shift=shift,
                crossed_shift=None if opposite is None else shift_between(tokens, opposite),
                other_rows=0.0 if shift is not None else in_other_rows(tokens, targets),
            )
        )
    return tuple(found)


def crossed_targets(
    wanted: Int[Tensor, " rows"], at: Int[Tensor, "first second"]
) -> Int[Tensor, "first second"] | None:
    """The targets of the positions if they ran through the two axes the other way round; None if they cannot."""
    first, second = at.shape
    order = torch.arange(first * second, device=at.device)
    if len(wanted) != first * second or (len(set(at.shape)) == 1 and first == 1):
        return None
    if torch.equal(at.flatten(), order):
        return wanted.reshape(second, first).T
    if torch.equal(at.T.flatten(), order):
        return wanted.reshape(first, second)
    return None


def shift_between(tokens: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"]) -> int | None:
    """The k for which each target t (negative: none) is token t + k; the one nearest to the next token first."""
    time = tokens.shape[1]
    kept = int((targets >= 0).sum())
    for k in sorted(range(-(time // 2), time // 2 + 1), key=lambda k: abs(2 * k - 1)):
        a, b = tokens[:, max(0, k) : time + min(0, k)], targets[:, max(0, -k) : time - max(0, k)]
        met = b >= 0
        matched = b[met]
        if len(matched) < max(ENOUGH, kept // 2) or not torch.equal(a[met].long(), matched.long()):
            continue
        if len(matched.unique()) >= TYPES:
            return k
    return None


def in_other_rows(tokens: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"]) -> float:
    """Share of the samples whose targets are the next tokens of another sample."""
    following, wanted = tokens[:, 1:], targets[:, :-1]
    if wanted.shape[1] < ENOUGH // 2 or len(tokens) < 2 or len(tokens) > 512:
        return 0.0
    free = wanted < 0
    same = ((wanted[:, None] == following[None]) | free[:, None]).all(-1) & ~free.all(-1)[:, None]
    own = same.diagonal()
    return float((same.any(1) & ~own).float().mean())


SCORE_ORIGIN = Probe(
    name="score-origin",
    question="Which output does each row of scores come from, and which token is it compared with?",
    measure=score_origin,
)
