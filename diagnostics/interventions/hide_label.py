"""Give the model zeros where the input holds the label."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from diagnostics.batch_rows import by_row, labels_of, plain
from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.probes.label_copies import BATCHES, columns_of, is_indicator, is_line, is_renamed
from diagnostics.probes.passes import has_labels
from diagnostics.rows import mapped
from diagnostics.subject import Batch, Subject


def hide_label(subject: Subject) -> Subject:
    """The subject whose input numbers that are the label are zero.

    Raises:
        ValueError: no number of the input is the label, or the loss compares with more than one number per row.
    """
    axis, found = subject.batch_axis, copies(subject)

    def hidden(batch: Batch) -> Batch:
        label, start = labels_of(batch, axis), 0

        def change(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
            nonlocal start
            if label is None or not is_input(tensor, label, axis):
                return tensor
            rows = by_row(tensor, axis).clone()
            flat = rows.reshape(len(rows), -1)
            here = found[start : start + flat.shape[1]].to(tensor.device)
            start += flat.shape[1]
            flat[:, : len(here)][:, here] = 0
            return flat.reshape(rows.shape).movedim(0, axis if tensor.dim() > axis else 0)

        return mapped(batch, change)

    def batches(seed: int) -> Iterator[Batch]:
        yield from map(hidden, subject.batches(seed))

    heldout = subject.heldout
    return replace(
        subject, batches=batches, heldout=None if heldout is None else lambda seed: map(hidden, heldout(seed))
    )


def is_input(tensor: Shaped[Tensor, "..."], label: Shaped[Tensor, " rows"], axis: int) -> bool:
    """Whether these are floating-point inputs, one entry per row, and not the label."""
    if not tensor.is_floating_point() or not tensor.dim() or len(by_row(tensor, axis)) != len(label):
        return False
    return tensor.numel() != len(label) or not torch.equal(plain(tensor).reshape(-1), label)


def copies(subject: Subject) -> Bool[Tensor, " columns"]:
    """Which numbers of the inputs are the label.

    Raises:
        ValueError: none, or the loss compares with more than one number per row.
    """
    with open_bench(subject, 0) as bench:
        every = list(islice(subject.batches(0), BATCHES))
        if not has_labels(bench, every[0]):
            raise ValueError("the loss compares with something else than one number per row")
    columns = columns_of(every, subject.batch_axis)
    labels = torch.cat([each for batch in every if (each := labels_of(batch, subject.batch_axis)) is not None])
    wanted = labels.double()
    found = is_line(columns, wanted)
    if not labels.is_floating_point() and len(labels.unique()) > 2:
        found |= is_indicator(columns, wanted) | is_renamed(columns, wanted)
    if not found.any():
        raise ValueError("no number of the input is the label; there is nothing to hide")
    return found


HIDE_LABEL = Intervention(name="hide-label", does="give zeros where the input holds the label", apply=hide_label)
