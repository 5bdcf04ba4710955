"""Whether what fills rows up to one length is among the targets that count."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.loss_account import class_rows, samples, wanted_rows
from diagnostics.subject import Batch
from diagnostics.watch import watched_loss

BATCHES = 2


@dataclass(frozen=True, kw_only=True)
class Filling:
    """One id that may be padding, in the targets that count.

    Args:
        id: of the token.
        known_from: "the token view", "an embedding" (its padding_idx) or "the rows" (an id that only ever fills ends of
            rows, to different lengths).
        counted: targets of this id at the ends of rows that have a gradient.
        beyond_first: the same without the one next to the text, which may be an end-of-text token.
        inside: targets of this id elsewhere.
    """

    id: int
    known_from: str
    counted: int
    beyond_first: int
    inside: int


@dataclass(frozen=True, kw_only=True)
class PaddedTargets:
    """The targets of the first batches as rows.

    Args:
        rows: samples looked at; 0 where targets are not in rows of several positions.
        counted: targets that have a gradient.
        fillings: ids that may be padding.
    """

    rows: int
    counted: int = 0
    fillings: tuple[Filling, ...] = ()


def padded_targets(bench: Bench) -> PaddedTargets:
    """Ids that may be padding, and how many of them count in the loss of a fresh model."""
    model = bench.model.eval()
    grids = [grid for index in range(BATCHES) for grid in target_grid(bench, model, bench.batch(index))]
    if not grids:
        return PaddedTargets(rows=0)
    fillings = [filling(id_, source, grids) for id_, source in candidates(bench, model, grids).items()]
    return PaddedTargets(
        rows=sum(len(targets) for targets, _ in grids),
        counted=sum(int(counts.sum()) for _, counts in grids),
        fillings=tuple(fillings),
    )


def target_grid(
    bench: Bench, model: nn.Module, batch: Batch
) -> Iterator[tuple[Int[Tensor, "samples positions"], Bool[Tensor, "samples positions"]]]:
    """The targets of a batch, samples first, and which of them have a gradient; nothing without such rows."""
    loss, watch = watched_loss(bench.subject, model, batch)
    calls = [call for call in watch.losses if call.given is not None and call.given.requires_grad]
    if not calls or not loss.requires_grad:
        return
    gradients = torch.autograd.grad(loss, [call.given for call in calls], allow_unused=True)  # type: ignore[arg-type]
    found = [
        (wanted_rows(call).cpu(), (class_rows(call, gradient) != 0).any(-1).cpu())
        for call, gradient in zip(calls, gradients, strict=True)
        if gradient is not None
    ]
    rows, axis = samples(bench.subject, model, batch), bench.subject.batch_axis
    if not found or not rows:
        return
    if len(found) > 1 and all(len(wanted) == rows for wanted, _ in found):  # one call for each position
        yield torch.stack([w for w, _ in found], 1), torch.stack([c for _, c in found], 1)
        return
    wanted, counts = found[-1]
    if len(wanted) % rows or len(wanted) < 2 * rows:
        return
    shape = (rows, -1) if axis == 0 else (-1, rows)
    yield wanted.reshape(shape).movedim(axis, 0), counts.reshape(shape).movedim(axis, 0)


Grids = list[tuple[Tensor, Tensor]]
"""Targets and which of them count, batch by batch, samples first."""


def candidates(bench: Bench, model: nn.Module, grids: Grids) -> dict[int, str]:
    """Ids that may be padding, and where that is known from."""
    found = {}
    for id_ in torch.unique(torch.cat([targets[:, [0, -1]].flatten() for targets, _ in grids])).tolist():
        if id_ >= 0 and only_fills(id_, grids):
            found[id_] = "the rows"
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            found[module.padding_idx] = "an embedding"
    view = bench.subject.token_view
    if view is not None and view.padding_id is not None:
        found[view.padding_id] = "the token view"
    return found


def ends(targets: Int[Tensor, "samples positions"], id_: int) -> tuple[Tensor, Tensor]:
    """Where an id fills the beginnings and the ends of rows."""
    same = (targets == id_).long()
    return same.cumprod(1).bool(), same.flip(1).cumprod(1).flip(1).bool()


def only_fills(id_: int, grids: Grids) -> bool:
    """Whether an id occurs at one end of rows only, in stretches of different lengths, at least two of two or more."""
    for side in (0, 1):
        lengths = torch.cat([ends(targets, id_)[side].sum(1) for targets, _ in grids])
        total = sum(int((targets == id_).sum()) for targets, _ in grids)
        if total == int(lengths.sum()) and int((lengths > 1).sum()) > 1 and len(lengths.unique()) > 1:
            return True
    return False


def filling(id_: int, source: str, grids: Grids) -> Filling:
    """How many targets of an id count."""
    counted = beyond = inside = 0
    for targets, counts in grids:
        before, after = ends(targets, id_)
        at_ends = before | after
        next_to_text = (after & ~after.roll(1, 1)) | (before & ~before.roll(-1, 1))
        counted += int((at_ends & counts).sum())
        beyond += int((at_ends & counts & ~next_to_text).sum())
        inside += int(((targets == id_) & ~at_ends).sum())
    return Filling(id=id_, known_from=source, counted=counted, beyond_first=beyond, inside=inside)


PADDED_TARGETS = Probe(
    name="padded-targets",
    question="Is padding among the targets that count?",
    measure=padded_targets,
)
