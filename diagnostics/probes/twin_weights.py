"""Whether head and embedding start with the same numbers in two tensors, and what a few steps make of that."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.structure import StructureWatch

STEPS = 3  # a warm-up may start at a rate of zero


@dataclass(frozen=True, kw_only=True)
class TwinWeights:
    """The embedding table and the last matrix of a fresh model. None: one of them was not seen.

    Args:
        shared: whether they are one tensor.
        equal: whether they are two, with the same numbers.
        drift: largest difference of two such numbers after STEPS steps, in units of the table's root mean square; None
            where they are not twins.
    """

    shared: bool | None
    equal: bool
    drift: float | None


def pair(bench: Bench) -> tuple[Tensor, Tensor] | None:
    """(table, head): the last matrix and the looked-up table most like it."""
    with torch.no_grad(), StructureWatch() as watch:
        bench.loss(bench.model.eval())
    heads = [factor for factor in watch.factors if factor.shape[0] == watch.classes]
    tables = [table for table in watch.tables if heads and table.shape == heads[-1].shape]
    if not tables:
        return None
    return next((t for t in tables if torch.equal(t, heads[-1])), tables[0]), heads[-1]


def twin_weights(bench: Bench) -> TwinWeights:
    """The two matrices of the freshly built model; training steps only where they are twins."""
    found = pair(bench)
    if found is None:
        return TwinWeights(shared=None, equal=False, drift=None)
    table, head = found
    shared = table.data_ptr() == head.data_ptr()
    if shared or not torch.equal(table, head) or not bool(table.std() > 0):
        return TwinWeights(shared=shared, equal=False, drift=None)
    bench.train(bench.one_batch(), STEPS)
    after = pair(bench)
    if after is None:
        return TwinWeights(shared=False, equal=True, drift=None)
    size = float(after[0].detach().norm()) / after[0].numel() ** 0.5
    return TwinWeights(shared=False, equal=True, drift=float((after[0] - after[1]).detach().abs().max()) / size)


TWIN_WEIGHTS = Probe(
    name="twin-weights",
    question="Do head and embedding start with the same numbers in two tensors, and do they stay the same?",
    measure=twin_weights,
)
