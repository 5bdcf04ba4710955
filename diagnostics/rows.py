"""The same subject with batches of fewer rows: what forward passes show, few rows show as well, and sooner."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.leaves import changed, leaves
from diagnostics.subject import Batch, Subject

FEW_ROWS = 8  # of a batch, for probes that run a model forward
WORK = 3e9  # floating-point operations of one training step that a laptop core does in about a tenth of a second
PER_WEIGHT = 6  # operations per weight and token: two forward, four backward (Kaplan et al. 2020, section 2.1)


def few_rows(subject: Subject, rows: int) -> Subject:
    """The subject with the first ``rows`` samples of each batch; itself where its batches cannot be cut.

    Tensors inside tuples, lists, mappings and objects with attributes are cut along the axis that is as long as there
    are samples. The cut is tried on the first batch: the loss must come out, and a token view must show the first rows.
    """
    whole = next(islice(subject.batches(0), 1), None)
    count = 0 if whole is None else samples(subject, whole)
    if count <= rows:
        return subject
    cut = cutter(subject.batch_axis, rows)
    if not cut_holds(subject, whole, cut(whole, count), rows):
        return subject

    def batches(source: Callable[[int], Iterator[Batch]]) -> Callable[[int], Iterator[Batch]]:
        return lambda seed: (cut(batch, samples(subject, batch)) for batch in source(seed))

    heldout = subject.heldout
    return replace(subject, batches=batches(subject.batches), heldout=None if heldout is None else batches(heldout))


def affordable(subject: Subject) -> Subject:
    """The subject with as many rows per batch as a training step of WORK operations allows, FEW_ROWS at least."""
    with open_bench(subject, 0) as bench:
        batch, weights = bench.batch(0), sum(p.numel() for p in bench.model.parameters())
    count = samples(subject, batch)
    positions = max((t.numel() for t in tensors(batch) if not t.is_floating_point()), default=count)
    work = PER_WEIGHT * weights * max(positions, count)
    return subject if work <= WORK or not count else few_rows(subject, max(FEW_ROWS, int(count * WORK / work)))


def samples(subject: Subject, batch: Batch) -> int:
    """How many samples a batch holds; 0 where it holds no tensor."""
    if subject.token_view is not None:
        return len(subject.token_view.targets(batch))
    first = next(tensors(batch), None)
    if first is None or first.dim() == 0:
        return 0
    return first.shape[subject.batch_axis if first.dim() > subject.batch_axis else 0]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors inside a batch."""
    return (tensor for _, tensor in leaves(value))


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested value, of the same types, with every tensor changed."""
    return changed(value, lambda path, tensor: change(tensor))


def cutter(batch_axis: int, rows: int) -> Callable[[Batch, int], Batch]:
    """(batch, its number of samples) -> the batch with the first rows of every tensor that has as many."""

    def cut(batch: Batch, count: int) -> Batch:
        def change(tensor: Tensor) -> Tensor:
            axes = [axis for axis in (batch_axis, 0) if tensor.dim() > axis and tensor.shape[axis] == count]
            return tensor.narrow(axes[0], 0, min(rows, count)) if axes else tensor

        return mapped(batch, change)

    return cut


def cut_holds(subject: Subject, whole: Batch, cut: Batch, rows: int) -> bool:
    """Whether the subject takes the smaller batch, and it is what its token view says it is."""
    with suppress(Exception), open_bench(subject, 0) as bench, torch.no_grad():  # a stranger's code may raise anything
        bench.loss(batch=cut)
        view = subject.token_view
        if view is None:
            return samples(subject, cut) == rows
        return (
            all(torch.equal(read(cut), read(whole)[:rows]) for read in (view.tokens, view.targets))
            and len(view.logits(bench.model, cut)) == rows
        )
    return False
