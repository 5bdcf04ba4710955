"""Padding in what a stranger's model is called with: which id it is, where it stands, and attentions over it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments
from diagnostics.watch import ForwardWatch, TorchCalls, watched_loss

BATCHES = 3  # in none of them padding may stand anywhere else than at the ends of rows
FEWEST_IDS = 4  # with fewer different numbers an argument is a mask or a kind of token, and its last id no padding
LONG = 2  # one id at the end of a row may be an end-of-text token


@dataclass(frozen=True, kw_only=True)
class PaddedArgument:
    """An argument of the model that is looked up in a table, and the id that fills its rows.

    ``known_from``: "the token view", "an embedding" (its padding_idx), "the loss" (its ignore_index), "the
    model's configuration" (a pad_token_id) or "the rows".
    """

    name: str
    id: int
    known_from: str


class Lookups(TorchCalls):
    """Notes the ids that tables are looked up with while it is active; ``noise`` is added to what one of them gives.

    Args:
        ids: the ids of the lookup to change, and where; None changes nothing.
    """

    def __init__(self, ids: Int[Tensor, "..."] | None = None, at: Bool[Tensor, "..."] | None = None) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.ids, self.at = ids, at

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen, and change what it gave where it is the one that was asked for."""
        result = func(*args, **kwargs)
        ids = looked_up(func, args, kwargs)
        if ids is None:
            return result
        self.seen.append(ids)
        for given, at in () if self.ids is None else ((self.ids, self.at), (self.ids.T, self.at.T)):
            if ids.shape == given.shape and torch.equal(ids, given):
                return result + noise(result) * at[..., None]
        return result


@no_type_check
def looked_up(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The ids that a call looks up in a table of vectors; None for any other call."""
    if func is F.embedding:
        return kwargs.get("input", args[0] if args else None)
    if func is torch.embedding:
        return args[1]
    if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and not args[1].is_floating_point():
        table = args[0].is_floating_point() and args[0].dim() == 2 and args[0].requires_grad
        return args[1] if table and args[1].dtype != torch.bool else None
    return None


def noise(like: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Normal numbers, three times as large as these; the same for every call of a shape."""
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)).to(like)
    return 3 * drawn * like.detach().std().clamp_min(1e-3)


def padded_arguments(bench: Bench, model: nn.Module) -> list[PaddedArgument]:
    """The padded arguments of the model in eval mode, in the order of its call."""
    with Lookups() as lookups, torch.no_grad():
        _, watch = watched_loss(bench.subject, model, bench.batch(0))
    named = named_ids(bench, model, watch)
    grids = [token_arguments(bench, model, index) for index in range(BATCHES)]
    found = []
    for name, values in grids[0].items():
        if any(ids.shape in (values.shape, values.T.shape) and same(ids, values) for ids in lookups.seen):
            rows = [grid[name] for grid in grids if name in grid]
            id_ = padding_of(rows, named)
            if id_ is not None:
                found.append(PaddedArgument(name=name, id=id_, known_from=named.get(id_, "the rows")))
    return found


def same(ids: Int[Tensor, "..."], values: Int[Tensor, "..."]) -> bool:
    """Whether these are the same ids, whichever axis is first."""
    return torch.equal(ids, values) or torch.equal(ids.T, values)


def token_arguments(bench: Bench, model: nn.Module, index: int) -> dict[str, Int[Tensor, "batch length"]]:
    """Whole-number arguments of the model with two axes, samples first."""
    given = call_arguments(model, lambda: bench.subject.loss(model, bench.batch(index)))
    return {
        name: value.movedim(bench.subject.batch_axis, 0)
        for name, value in given.items()
        if value.dim() == 2 and not value.is_floating_point() and value.dtype != torch.bool
    }


def named_ids(bench: Bench, model: nn.Module, watch: ForwardWatch) -> dict[int, str]:
    """Ids that somebody calls padding, and where that is said."""
    found = {call.ignore_index: "the loss" for call in watch.losses if call.ignore_index >= 0 and not call.by_hand}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            found[module.padding_idx] = "an embedding"
    configured = getattr(getattr(model, "config", None), "pad_token_id", None)
    if isinstance(configured, int):
        found[configured] = "the model's configuration"
    view = bench.subject.token_view
    if view is not None and view.padding_id is not None:
        found[view.padding_id] = "the token view"
    return found


def padding_of(rows: list[Int[Tensor, "batch length"]], named: dict[int, str]) -> int | None:
    """The id that fills these rows: a named one, or one that fills stretches of different lengths; None: none does."""
    if torch.cat([each.flatten() for each in rows]).unique().numel() < FEWEST_IDS:
        return None
    others = sorted(set(rows[0][:, [0, -1]].flatten().tolist()) - set(named))
    for id_ in (*named, *others):
        if not all(only_at_ends(each, id_) for each in rows) or not bool(beyond_first(rows[0], id_).any()):
            continue
        lengths = filled(rows[0], id_).sum(1)
        if id_ in named or (len(lengths.unique()) > 1 and int((lengths >= LONG).sum()) > 1):
            return id_
    return None


def stretches(
    values: Int[Tensor, "batch length"], id_: int
) -> tuple[Bool[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Where an id fills the beginnings and the ends of rows."""
    same = (values == id_).long()
    return same.cumprod(1).bool(), same.flip(1).cumprod(1).flip(1).bool()


def only_at_ends(values: Int[Tensor, "batch length"], id_: int) -> bool:
    """Whether an id stands nowhere else than at the ends of rows."""
    before, after = stretches(values, id_)
    return not bool(((values == id_) & ~before & ~after).any())


def filled(values: Int[Tensor, "batch length"], id_: int) -> Bool[Tensor, "batch length"]:
    """Where rows are padded; a single id at the beginning is a start token, and rows of nothing else are left out."""
    before, after = stretches(values, id_)
    before = before & (before.sum(1, keepdim=True) >= LONG)
    return (before | after) & (values != id_).any(1, keepdim=True)


def beyond_first(values: Int[Tensor, "batch length"], id_: int) -> Bool[Tensor, "batch length"]:
    """Where rows are padded, without the place next to the text, which may hold an end-of-text token."""
    before, after = stretches(values, id_)
    inner = before & F.pad(before, (0, 1))[:, 1:] | after & F.pad(after, (1, 0))[:, :-1]
    return inner & filled(values, id_)


def by_sample(weights: Shaped[Tensor, "..."], rows: int) -> Shaped[Tensor, "rows heads query key"] | None:
    """Scores or weights with the samples on the first of four axes; None where these are not found."""
    if weights.dim() == 4 and rows in weights.shape[:2]:
        return weights if weights.shape[0] == rows else weights.transpose(0, 1)
    if weights.dim() == 3 and weights.shape[0] % rows == 0:
        return weights.unflatten(0, (rows, -1))
    return None


def looks_back(hidden: Bool[Tensor, "..."] | None) -> bool:
    """Whether a mask over a window hides everything behind each query."""
    if hidden is None or hidden.dim() < 2 or hidden.shape[-1] != hidden.shape[-2] or hidden.shape[-1] < 2:
        return False
    ahead = torch.ones(hidden.shape[-2:], dtype=torch.bool, device=hidden.device).triu(1)
    return bool(hidden[..., ahead].all())
