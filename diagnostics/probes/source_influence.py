"""Whether a source that the model is called with, beside the targets, reaches the predictions at all."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from diagnostics.attention import AttentionWatch
from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments, edited_arguments, in_double, rounding
from diagnostics.padding import FEWEST_IDS, Lookups, same, stretches
from diagnostics.probe import Probe
from diagnostics.watch import LossCall, watched_loss

NUDGE = 0.02  # added to every weight, so that a gate or a projection that starts at zero is open


@dataclass(frozen=True, kw_only=True)
class Source:
    """An argument of the model that is no copy of the targets.

    Args:
        argument: its name. ``kind``: "ids" or "vectors".
        moved: largest movement of a score of the loss, in standard deviations, when all of it is another text; with
            every weight of the model nudged, so that nothing is at zero.
        crossing: attentions with keys of its length and queries of another argument's; None where all lengths are one.
    """

    argument: str
    kind: str
    moved: float
    crossing: int | None


@dataclass(frozen=True, kw_only=True)
class SourceInfluence:
    """The sources of a model that is given its targets as well.

    Args:
        sources: its arguments that are no copy of the targets.
        own: arguments that are.
        alive: whether the scores differ from place to place at all.
        rounding: what rounding alone may move.
    """

    sources: tuple[Source, ...]
    own: tuple[str, ...]
    alive: bool
    rounding: float


@torch.no_grad()
def source_influence(bench: Bench) -> SourceInfluence:
    """Movements of the scores of a fresh model with nudged weights, in eval mode."""
    model = bench.model.eval()
    call = loss_scores(bench, model)
    given = call_arguments(model, bench.loss)
    rows = by_sample(bench, given)
    targets = None if call is None else target_rows(call, rows, bench.subject.batch_axis)
    own = () if targets is None else tuple(n for n, v in rows.items() if whole(v) and is_copy(v, targets))
    others = {name: value for name, value in rows.items() if own and name not in own}
    sources = read_from(bench, model, others, {rows[name].shape[1] for name in own})
    if not sources:
        return SourceInfluence(sources=(), own=own, alive=False, rounding=0.0)
    nudge(model)
    model = in_double(model, lambda model: bench.loss(model))
    with AttentionWatch(model, trace=False) as watch:
        plain = scores(bench, model)
    precision = rounding(plain)
    shapes = [tuple(each.raw.shape[-2:]) for each in watch.attentions]
    return SourceInfluence(
        sources=tuple(
            Source(
                argument=name,
                kind="ids" if whole(value) else "vectors",
                moved=moved(bench, model, name, plain),
                crossing=crossing(shapes, value.shape[1], {rows[each].shape[1] for each in own}),
            )
            for name, value in sources.items()
        ),
        own=own,
        alive=bool((plain - plain.mean(0)).abs().max() > precision * plain.abs().max()),
        rounding=precision,
    )


def loss_scores(bench: Bench, model: nn.Module) -> LossCall | None:
    """The last call of a classification loss."""
    _, watch = watched_loss(bench.subject, model, bench.batch(0))
    return watch.losses[-1] if watch.losses else None


def scores(bench: Bench, model: nn.Module) -> Float[Tensor, "targets classes"]:
    """What the loss is given, one row per target that counts.

    Raises:
        ValueError: it is not finite, or the loss compares nothing with targets.
    """
    torch.manual_seed(0)  # a bench's randomness is its own
    call = loss_scores(bench, model)
    if call is None or not call.scores.numel() or not bool(call.scores.isfinite().all()):
        raise ValueError("the scores that the loss is given are not finite, or none of them counts")
    return call.scores


def by_sample(bench: Bench, given: dict[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "rows length ..."]]:
    """Arguments with samples and positions, samples first: ids of two axes, and vectors."""
    axis, found = bench.subject.batch_axis, {}
    for name, value in given.items():
        ids = value.dim() == 2 and not value.is_floating_point() and value.dtype != torch.bool
        if ids or (value.dim() == 3 and value.is_floating_point() and bool(value.isfinite().all())):
            found[name] = value.movedim(axis, 0)
    return found


def whole(value: Shaped[Tensor, "..."]) -> bool:
    """Whether these are ids."""
    return not value.is_floating_point()


def target_rows(call: LossCall, rows: dict[str, Tensor], axis: int) -> Int[Tensor, "rows positions"] | None:
    """The targets of a loss call in rows, -1 where the loss leaves them out; None where they have no such rows."""
    wanted, count = call.wanted, len(next(iter(rows.values()))) if rows else 0
    if wanted is None or wanted.is_floating_point() or not count or wanted.numel() % count:
        return None
    wanted = wanted.detach().masked_fill(wanted == call.ignore_index, -1)
    if wanted.dim() == 1:
        return wanted.view(count, -1) if axis == 0 else wanted.view(-1, count).T
    return wanted.flatten(1) if len(wanted) == count else wanted.T if wanted.dim() == 2 else None


def is_copy(values: Int[Tensor, "rows length"], targets: Int[Tensor, "rows positions"]) -> bool:
    """Whether these ids are the targets, shifted by a few places, wherever both exist and count."""
    length, positions = values.shape[1], targets.shape[1]
    for shift in range(-3, 4):
        first, last = max(0, shift), min(length, positions + shift)
        if len(values) != len(targets) or last - first < max(2, positions // 2):
            continue
        met = targets[:, first - shift : last - shift]
        free = met < 0
        if bool(((values[:, first:last] == met) | free).all()) and not bool(free.all()):
            return True
    return False


def read_from(
    bench: Bench, model: nn.Module, others: dict[str, Tensor], lengths: set[int]
) -> dict[str, Shaped[Tensor, "rows length ..."]]:
    """Those that a model may read from: vectors, and ids that differ from row to row and are no mask.

    Ids that are looked up in no table must have a length of their own: document numbers and the like have not.
    """
    if not others:
        return {}
    with Lookups() as lookups:
        bench.loss(model)
    found = {}
    for name, value in others.items():
        varied = bool((value != value[:1]).any()) and value.unique().numel() > 2 * FEWEST_IDS
        seen = any(
            ids.shape in (value.shape, value.T.shape) and same(ids, value) for ids in lookups.seen if whole(value)
        )
        if varied and (not whole(value) or seen or value.shape[1] not in lengths):
            found[name] = value
    return found


def nudge(model: nn.Module) -> None:
    """Move every weight a little."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(NUDGE * torch.randn(parameter.shape, generator=generator).to(parameter))


def moved(bench: Bench, model: nn.Module, name: str, plain: Float[Tensor, "targets classes"]) -> float:
    """Largest movement of a score when this argument holds another text."""
    axis = bench.subject.batch_axis
    with edited_arguments(model, lambda each, value: another_text(value, axis) if each == name else value):
        change = (scores(bench, model) - plain).abs().max()
    return float(change / plain.std().clamp_min(torch.finfo(plain.dtype).tiny))


def another_text(value: Shaped[Tensor, "*shape"], axis: int) -> Shaped[Tensor, "*shape"]:
    """The same rows with every id another one of those that occur; padding at the ends stays. Vectors: noise added."""
    generator = torch.Generator().manual_seed(1)
    if value.is_floating_point():
        return value + torch.randn(value.shape, generator=generator).to(value) * value.std()
    rows = value.movedim(axis, 0)
    fills = torch.zeros_like(rows, dtype=torch.bool)
    for id_ in rows[:, [0, -1]].unique().tolist():
        before, after = stretches(rows, id_)
        fills |= (before & (before.sum(1, keepdim=True) > 1)) | (after & (after.sum(1, keepdim=True) > 1))
    ids = rows[~fills].unique()
    step = torch.randint(1, max(2, len(ids)), rows.shape, generator=generator).to(rows.device)
    other = ids[(torch.searchsorted(ids, rows.contiguous()).clamp_max(len(ids) - 1) + step) % len(ids)]
    return torch.where(fills, rows, other).movedim(0, axis)


def crossing(shapes: list[tuple[int, ...]], length: int, lengths: set[int]) -> int | None:
    """Attentions between positions of these arguments and of the source."""
    if length in lengths:
        return None
    return sum(queries in lengths and keys == length for queries, keys in shapes)


SOURCE_INFLUENCE = Probe(
    name="source-influence",
    question="Does the source that the model is called with reach its predictions?",
    measure=source_influence,
)
