"""Find the token stream behind a stranger's batches by watching its loss: which tensor holds the targets, which the
tokens before them, and by how much the one is shifted against the other."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from diagnostics.leaves import Path, changed, leaves
from diagnostics.smoothing import MOST, SAME, between
from diagnostics.subject import Batch, TokenView
from diagnostics.ways import ClassLoss, ClassLosses, LossSeenError, primary

SHIFTS = (1, 0, 2, -1)  # of the inputs against the targets, in the order in which they are looked for; 1 is healthy
IGNORED_BY_HABIT = (-100, 0, 1)  # what losses written out by hand leave out
ENOUGH = 2  # different tokens must agree before a shift is believed
Loss = Callable[[nn.Module, Batch], Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where the targets are in a batch.

    Args:
        path: the tensor that holds them.
        part: which of its columns.
        ignore: the token that the loss leaves out.
        by_time: whether the loss counts them time by time instead of sample by sample.
        open_end: whether the loss has one more column, left out everywhere (targets shifted inside the model).
    """

    path: Path
    part: slice
    ignore: int
    by_time: bool = False
    open_end: bool = False


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A tensor of the batch and where it lies in the stream."""

    path: Path
    offset: int


@dataclass(frozen=True, kw_only=True)
class Stream:
    """How the tokens of one stream lie in the tensors of a batch; later pieces have the say where they overlap."""

    pieces: tuple[Piece, ...]
    batch_axis: int
    ignore: int

    def tokens(self, batch: Batch) -> Int[Tensor, "batch stream"]:
        """The stream behind a batch; 0 where the batch only says that a target is left out."""
        found = tables(batch, self.batch_axis)
        parts = [(found[piece.path], piece.offset) for piece in self.pieces]
        length = max(part.shape[1] + offset for part, offset in parts)
        stream = parts[0][0].new_zeros(len(parts[0][0]), length)
        for part, offset in parts:
            place = stream[:, offset : offset + part.shape[1]]
            place.copy_(torch.where(self._stays(part), place, part))
        return stream

    def with_tokens(self, batch: Batch, tokens: Int[Tensor, "rows stream"]) -> Batch:
        """The batch made from another stream; rows of everything else are repeated or dropped to match."""
        offsets = {piece.path: piece.offset for piece in self.pieces}
        rows = len(next(iter(tables(batch, self.batch_axis).values())))

        def change(path: Path, tensor: Tensor) -> Tensor:
            axis = min(self.batch_axis, tensor.dim() - 1)
            if axis >= 0 and tensor.shape[axis] == rows != len(tokens):
                tensor = tensor.index_select(axis, torch.arange(len(tokens), device=tensor.device) % rows)
            if path not in offsets:
                return tensor
            table = tensor.movedim(self.batch_axis, 0)
            new = tokens[:, offsets[path] : offsets[path] + table.shape[1]].to(table)
            return torch.where(self._stays(table), table, new).movedim(0, self.batch_axis).contiguous()

        return changed(batch, change)

    def _stays(self, table: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Entries that are no tokens but say that a target is left out."""
        return table == self.ignore if self.ignore < 0 else torch.zeros_like(table, dtype=torch.bool)


def tables(batch: Batch, batch_axis: int) -> dict[Path, Int[Tensor, "batch length"]]:
    """Every two-axis tensor of whole numbers in a batch, samples first."""
    return {
        path: leaf.movedim(batch_axis, 0)
        for path, leaf in leaves(batch)
        if leaf.dim() == 2 and not leaf.is_floating_point() and leaf.dtype != torch.bool
    }


def token_view_of(loss: Loss, model: nn.Module, batch: Batch, batch_axis: int) -> TokenView:
    """How to read and edit the tokens behind this subject's batches, checked against the loss itself.

    Args:
        model: a private copy.

    Raises:
        ValueError: this is no language model, or it cannot be told which tokens it reads and predicts.
    """
    model.eval()
    if not tables(batch, batch_axis):
        raise ValueError("its batch holds no table of whole numbers")
    number, call = loss_call_of(loss, model, batch)
    if call is None:
        return view_of_outputs(loss, model, batch, batch_axis)
    targets = find_targets(call, batch, batch_axis)

    def scores(model: nn.Module, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        _, seen = loss_call_of(loss, model, batch, number)
        assert seen is not None
        found = in_order(seen.rows, find_part(batch, targets, batch_axis), targets)
        assert found is not None
        return found

    def again(logits: Float[Tensor, "batch time vocab"], aims: Int[Tensor, "batch time"]) -> Float[Tensor, "..."]:
        order = (1, 0) if targets.by_time else (0, 1)
        rows, flat = logits.permute(*order, 2).flatten(0, 1), aims.permute(order).flatten()
        return call.function(rows, flat, **(call.options | {"ignore_index": targets.ignore}))

    view = view_from(loss, scores, model, batch, batch_axis, targets, call.rows.shape[1])
    return checked(view, model, batch, again, call.value)


def loss_call_of(loss: Loss, model: nn.Module, batch: Batch, number: int | None = None) -> tuple[int, ClassLoss | None]:
    """The call of a classification loss that has the most targets (the last of such), or the one with this number."""
    with ClassLosses(stop_at=number) as watch:
        try:
            loss(model, batch)
        except LossSeenError:
            assert number is not None
            return number, watch.seen[number]
    if not watch.seen:
        return 0, None
    index = max(range(len(watch.seen)), key=lambda i: (len(watch.seen[i].targets), i))
    return index, watch.seen[index]


def find_targets(call: ClassLoss, batch: Batch, batch_axis: int) -> Targets:
    """Which tensor of the batch, and which part of it, the loss compares with.

    Raises:
        ValueError: none.
    """
    possible = (agreeing(each, call, batch, batch_axis) for each in possible_targets(batch, batch_axis))
    found = [each for each in possible if each is not None]
    if not found:
        raise ValueError(
            f"the {len(call.targets)} targets of its loss are not the rows of a table of tokens in its batch"
        )
    return found[-1]


def possible_targets(batch: Batch, batch_axis: int) -> Iterator[Targets]:
    """Every table of the batch, whole and without its first or last column."""
    for path in tables(batch, batch_axis):
        for part in (slice(0, -1), slice(1, None), slice(0, None)):
            yield Targets(path=path, part=part, ignore=-100)


def agreeing(one: Targets, call: ClassLoss, batch: Batch, batch_axis: int) -> Targets | None:
    """These targets with the order in which the loss counts them and what it leaves out; None where they differ."""
    values = find_part(batch, one, batch_axis)
    ends = (False, True) if one.part == slice(1, None) else (False,)
    for by_time, open_end in itertools.product((False, True), ends):
        seen = in_order(call.targets[:, None], values, replace(one, by_time=by_time, open_end=open_end))
        if seen is None:
            continue
        left_out = seen[..., 0] == call.ignore_index
        if left_out.all() or not ((seen[..., 0] == values) | left_out).all():
            continue
        ignore = left_out_by(values, left_out, call.ignore_index)
        if ignore is not None:
            return replace(one, by_time=by_time, open_end=open_end, ignore=ignore)
    return None


def left_out_by(values: Int[Tensor, "..."], left_out: Bool[Tensor, "..."], ignore: int) -> int | None:
    """The token in the batch that marks the targets that are left out; None where none does."""
    if torch.equal(values == ignore, left_out):
        return ignore
    marks = values[left_out].unique()
    return int(marks[0]) if len(marks) == 1 and torch.equal(values == marks[0], left_out) else None


def find_part(batch: Batch, targets: Targets, batch_axis: int) -> Int[Tensor, "batch time"]:
    """The targets of a batch."""
    return tables(batch, batch_axis)[targets.path][:, targets.part]


def in_order(
    rows: Shaped[Tensor, "rows width"], values: Int[Tensor, "batch time"], targets: Targets
) -> Shaped[Tensor, "batch time width"] | None:
    """The loss's rows as a table over samples and times; None where their number does not fit."""
    samples, times = values.shape[0], values.shape[1] + targets.open_end
    if len(rows) != samples * times:
        return None
    shape = (times, samples) if targets.by_time else (samples, times)
    table = rows.unflatten(0, shape)
    table = table.transpose(0, 1) if targets.by_time else table
    return table[:, : values.shape[1]]


def view_from(
    loss: Loss,
    scores: Callable[[nn.Module, Batch], Float[Tensor, "batch time vocab"]],
    model: nn.Module,
    batch: Batch,
    batch_axis: int,
    targets: Targets,
    vocab: int,
) -> TokenView:
    """The token view with these scores and targets, and the stream that the model is found to read."""
    stream = find_stream(scores, model, batch, batch_axis, targets, vocab)
    return TokenView(
        vocab_size=vocab,
        tokens=stream.tokens,
        with_tokens=stream.with_tokens,
        logits=scores,
        targets=lambda batch: find_part(batch, targets, batch_axis),
        ignored=lambda batch: find_part(batch, targets, batch_axis) == targets.ignore,
        padding_id=targets.ignore if targets.ignore >= 0 else None,
    )


def find_stream(
    scores: Callable[[nn.Module, Batch], Float[Tensor, "batch time vocab"]],
    model: nn.Module,
    batch: Batch,
    batch_axis: int,
    targets: Targets,
    vocab: int,
) -> Stream:
    """The tensors that hold the targets' stream: that of the targets, and one that holds the tokens before them.

    A source of translation is none of them: it may hold the same tokens, and be read whole. So a second tensor counts
    where it holds each token one place before its target; if the model reads the targets' own tensor (and makes
    the decoder's input of it), no other does.

    Raises:
        ValueError: the model reads no shifted copy of the targets.
    """
    found = tables(batch, batch_axis)
    own, others = Piece(path=targets.path, offset=0), [path for path in found if path != targets.path]

    def reads(path: Path) -> bool:
        """Whether the predictions change when this tensor alone does."""
        edit = Stream(pieces=(Piece(path=path, offset=0),), batch_axis=batch_axis, ignore=targets.ignore)
        other = edit.with_tokens(batch, (edit.tokens(batch) + 1) % vocab)
        return not torch.equal(scores(model, batch), scores(model, other))

    def shifted(wanted: int) -> Stream | None:
        """The stream of the targets and the last tensor that holds each target so many places later than they do."""
        for path in reversed(others):
            if agree(found[targets.path], found[path], wanted, targets.ignore) and reads(path):
                first = Piece(path=targets.path, offset=max(0, wanted))
                second = Piece(path=path, offset=max(0, -wanted))
                return Stream(pieces=(first, second), batch_axis=batch_axis, ignore=targets.ignore)
        return None

    with torch.no_grad():
        if stream := shifted(SHIFTS[0]):
            return stream
        if reads(targets.path):
            return Stream(pieces=(own,), batch_axis=batch_axis, ignore=targets.ignore)
        for shift in SHIFTS[1:]:
            if stream := shifted(shift):
                return stream
    raise ValueError("its targets are no tokens that it reads, shifted by any amount")


def agree(targets: Int[Tensor, "batch a"], inputs: Int[Tensor, "batch b"], shift: int, ignore: int) -> bool:
    """Whether input t + shift is target t wherever both are there and the loss looks."""
    if len(targets) != len(inputs):
        return False
    aims, given = targets[:, max(0, -shift) :], inputs[:, max(0, shift) :]
    length = min(aims.shape[1], given.shape[1])
    aims, given = aims[:, :length], given[:, :length]
    looked = aims != ignore
    return bool((aims == given)[looked].all()) and len(aims[looked].unique()) >= ENOUGH


def view_of_outputs(loss: Loss, model: nn.Module, batch: Batch, batch_axis: int) -> TokenView:
    """The token view of a subject whose loss is written out by hand: from what its model returns.

    Raises:
        ValueError: no table of the batch, compared with the model's output by a cross-entropy, gives its loss.
    """
    with torch.no_grad():
        value, output = loss(model, batch), output_of(loss, model, batch)
    if output is None or output.dim() != 3:
        axes = "is not seen" if output is None else f"has {output.dim()} axes"
        raise ValueError(f"no cross-entropy of torch was seen, and the output of its model {axes} (3 are needed)")
    for one, first, ignore in itertools.product(possible_targets(batch, batch_axis), (0, 1), IGNORED_BY_HABIT):
        targets = replace(one, ignore=ignore, by_time=bool(first))
        aims = find_part(batch, targets, batch_axis)

        def scores(model: nn.Module, batch: Batch, *, targets: Targets = targets, first: int = first) -> Tensor:
            given = output_of(loss, model, batch)
            assert given is not None
            return given.movedim(first, 0)[:, : find_part(batch, targets, batch_axis).shape[1]]

        logits = output.movedim(first, 0)
        if logits.shape[0] != len(aims) or logits.shape[1] - aims.shape[1] not in (0, 1):
            continue
        logits = logits[:, : aims.shape[1]]
        if not valid(aims, ignore, logits.shape[2]) or (aims == ignore).all():
            continue
        plain = any(close(again(logits, aims), value) for again in by_hand(ignore))
        if plain or is_smoothed(loss, model, batch, batch_axis, targets, scores):
            return view_from(loss, scores, model, batch, batch_axis, targets, logits.shape[2])
    raise ValueError("its loss is no cross-entropy between what its model returns and a table of tokens in its batch")


@torch.no_grad()
def is_smoothed(
    loss: Loss,
    model: nn.Module,
    batch: Batch,
    batch_axis: int,
    targets: Targets,
    scores: Callable[[nn.Module, Batch], Float[Tensor, "batch time vocab"]],
) -> bool:
    """Whether a loss is a mean cross-entropy with smoothed labels, by the same amount on this batch and on another one.

    The other one has the rows of its targets in reverse order.
    """
    other = changed(batch, lambda path, leaf: leaf.flip(batch_axis) if path == targets.path else leaf)
    amounts = []
    for each in (batch, other):
        aims = find_part(each, targets, batch_axis)
        kept = aims != targets.ignore
        amounts.append(between(loss(model, each), scores(model, each)[kept], aims[kept]).amount)
    return MOST >= amounts[0] > 0 and math.isclose(*amounts, rel_tol=SAME)


def by_hand(ignore: int) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    """Cross-entropies that people write out: of logits or of log-probabilities, as a mean, a sum, or per sample."""
    for function, divide in itertools.product((F.cross_entropy, F.nll_loss), ("targets", "nothing", "samples")):
        yield partial(_by_hand, function, divide, ignore)


def _by_hand(
    function: Callable[..., Tensor],
    divide: str,
    ignore: int,
    logits: Float[Tensor, "batch time vocab"],
    aims: Int[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    total = function(logits.flatten(0, 1), aims.flatten(), ignore_index=ignore, reduction="sum")
    return total / {"targets": int((aims != ignore).sum()), "nothing": 1, "samples": len(aims)}[divide]


def valid(targets: Int[Tensor, "..."], ignore: int, vocab: int) -> bool:
    """Whether every target that counts is a class."""
    counted = targets[targets != ignore]
    return bool(((counted >= 0) & (counted < vocab)).all())


def output_of(loss: Loss, model: nn.Module, batch: Batch) -> Float[Tensor, "..."] | None:
    """The predictions that the model's first call in the loss returns; None where it is never called."""
    seen: list[Any] = []

    def after(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output)
        raise LossSeenError

    handle = model.register_forward_hook(after)
    try:
        loss(model, batch)
    except LossSeenError:
        return primary(seen[0])
    finally:
        handle.remove()
    return None


def checked(
    view: TokenView,
    model: nn.Module,
    batch: Batch,
    again: Callable[[Tensor, Tensor], Tensor],
    value: Float[Tensor, "..."],
) -> TokenView:
    """The view, once its own logits and targets have given the loss that was seen, also from its own stream.

    Raises:
        ValueError: they give another loss.
    """
    with torch.no_grad():
        rebuilt = view.with_tokens(batch, view.tokens(batch))
        for each in (batch, rebuilt):
            logits = view.logits(model, each).to(value.dtype)  # inside autocast a loss is computed in full precision
            found = again(logits, view.targets(each))
            if found.numel() == value.numel() and not close(found.reshape(value.shape), value):
                raise ValueError(
                    f"the tokens found in the batch give a loss of {float(found.mean()):.6g}, "
                    f"its own is {float(value.mean()):.6g}"
                )
    return view


def close(one: Float[Tensor, "..."], other: Float[Tensor, "..."]) -> bool:
    """Whether two losses are the same number, up to the order of a sum."""
    rounding = {torch.float64: 1e-10, torch.float32: 1e-5}.get(other.dtype, 1e-2)
    return torch.allclose(one.double(), other.double(), rtol=rounding, atol=rounding, equal_nan=True)
