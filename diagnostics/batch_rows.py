"""The rows of a stranger's batch: told apart by value, taken and put together again, whatever holds them."""

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from diagnostics.rows import mapped, tensors
from diagnostics.subject import Batch


def by_row(part: Shaped[Tensor, "..."], axis: int) -> Shaped[Tensor, "rows ..."]:
    """A tensor with its samples first; what has no such axis (labels of time-first inputs) has them first already."""
    return part.movedim(axis, 0) if part.dim() > axis else part


def row_parts(batch: Batch, axis: int) -> list[Shaped[Tensor, "rows ..."]]:
    """The tensors of a batch that have one entry per sample, samples first."""
    parts = [by_row(part, axis) for part in tensors(batch) if part.dim()]
    return [part for part in parts if len(part) == len(parts[0])] if parts else []


def row_keys(batch: Batch, axis: int) -> list[bytes]:
    """One key per sample, equal exactly where everything that belongs to the samples is equal."""
    parts = [plain(part).reshape(len(part), -1).contiguous() for part in row_parts(batch, axis)]
    raw = [
        part.view(torch.uint8) if part.dtype != torch.bool else part.to(torch.uint8) for part in parts if part.numel()
    ]
    return [row.tobytes() for row in torch.cat(raw, dim=1).numpy()] if raw else []


def plain(part: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """The values on the processor, apart from any graph."""
    return part.detach().cpu()


def batch_key(batch: Batch) -> bytes:
    """Equal exactly where every tensor of two batches is equal."""
    parts = [plain(part).contiguous().reshape(-1) for part in tensors(batch)]
    return b"".join(bytes(str(tuple(p.shape)), "ascii") + p.view(torch.uint8).numpy().tobytes() for p in parts)


def labels_of(batch: Batch, axis: int) -> Shaped[Tensor, " rows"] | None:
    """The one number per sample that a batch ends with: classes or values to predict; None where there is none."""
    flat = [part.reshape(len(part)) for part in row_parts(batch, axis) if part.numel() == len(part)]
    return plain(flat[-1]) if flat and len(row_parts(batch, axis)) > 1 else None


def taken(batches: Sequence[Batch], rows: Int[Tensor, " rows"], axis: int) -> Batch:
    """A batch of these rows of the given batches, numbered through; built like the first of them.

    Raises:
        ValueError: the batches are of a kind that cannot be taken apart, or of different widths.
    """
    columns = zip(*(tensors(batch) for batch in batches), strict=True)
    counts = [len(row_parts(batch, axis)[0]) for batch in batches]
    anew = iter([joined(column, counts, rows, axis) for column in columns])
    return mapped(batches[0], lambda tensor: next(anew))


def joined(
    column: Sequence[Shaped[Tensor, "..."]], counts: Sequence[int], rows: Int[Tensor, " rows"], axis: int
) -> Shaped[Tensor, "..."]:
    """The rows of one tensor per batch; the first tensor where they have no entry per sample."""
    if any(not each.dim() for each in column) or [len(by_row(each, axis)) for each in column] != list(counts):
        return column[0]
    if len({by_row(each, axis).shape[1:] for each in column}) > 1:
        raise ValueError("the batches have rows of different lengths; they cannot be put together anew")
    together = torch.cat([by_row(each, axis) for each in column])[rows.to(column[0].device)]
    return together.movedim(0, axis) if column[0].dim() > axis else together


def refuse_unless_rows(batch: Batch, axis: int) -> None:
    """Raises ValueError where a batch cannot be taken apart into rows."""
    if not row_parts(batch, axis) or next(tensors(batch), None) is None:
        raise ValueError(f"a batch of kind {type(batch).__name__} cannot be taken apart into rows")
