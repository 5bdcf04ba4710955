"""Whether a number of the input is the label itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diagnostics.batch_rows import labels_of, plain, row_parts
from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.passes import classes_of, has_labels
from diagnostics.subject import Batch

BATCHES = 8
COLUMNS = 20_000  # numbers per row that are looked at, at most
ROUNDING = 1e-6  # of a standard deviation


@dataclass(frozen=True, kw_only=True)
class LabelCopies:
    """Inputs beside labels, over the first training batches.

    Args:
        rows: that were compared; 0 where the loss does not compare with one number per row.
        classes: different labels among them; 0 where labels are values.
        columns: numbers per row.
        equal: columns that are the label, up to a factor and a shift.
        indicators: columns that are 1 (or one same number) for one class and another number for all others.
        decided: columns whose value decides the class in more than two ways: as many values as classes, one each.
    """

    rows: int
    classes: int
    columns: int
    equal: int
    indicators: int
    decided: int


def label_copies(bench: Bench) -> LabelCopies:
    """Every floating-point number of the inputs, compared with the labels."""
    axis = bench.subject.batch_axis
    batches = list(islice(bench.subject.batches(bench.seed), BATCHES))
    if not batches or not has_labels(bench, batches[0]):
        return LabelCopies(rows=0, classes=0, columns=0, equal=0, indicators=0, decided=0)
    labels = [label for batch in batches if (label := labels_of(batch, axis)) is not None]
    columns, every = columns_of(batches, axis), torch.cat(labels).double()
    classes = len(classes_of(labels))
    return LabelCopies(
        rows=len(every),
        classes=classes,
        columns=columns.shape[1],
        equal=int(is_line(columns, every).sum()),
        indicators=int(is_indicator(columns, every).sum()) if classes > 2 else 0,
        decided=int(is_renamed(columns, every).sum()) if classes > 2 else 0,
    )


def columns_of(batches: Sequence[Batch], axis: int) -> Float[Tensor, "rows columns"]:
    """The floating-point numbers of each row: everything in the batches but the last number per row, the label.

    Tokens are left out: to find one of them again is an honest task.
    """
    widths = []
    for batch in batches:
        parts = row_parts(batch, axis)
        label = max(index for index, part in enumerate(parts) if part.numel() == len(part))
        widths.append(
            [plain(p).double().reshape(len(p), -1) for i, p in enumerate(parts) if i != label and p.is_floating_point()]
        )
    if not widths[0]:
        return torch.zeros(sum(len(row_parts(batch, axis)[0]) for batch in batches), 0, dtype=torch.float64)
    same = [i for i in range(len(widths[0])) if len({each[i].shape[1] for each in widths}) == 1]
    joined = [torch.cat([each[i] for each in widths]) for i in same]
    return torch.cat(joined, dim=1)[:, :COLUMNS]


def is_line(columns: Float[Tensor, "rows columns"], labels: Float[Tensor, " rows"]) -> Bool[Tensor, " columns"]:
    """Which columns are a straight line of the labels."""
    centred, wanted = columns - columns.mean(0), labels - labels.mean()
    slope = wanted @ centred / wanted.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    off = (centred - wanted[:, None] * slope).abs().amax(0)
    return (off <= ROUNDING * centred.std(0)) & (centred.abs().amax(0) > 0)


def is_indicator(columns: Float[Tensor, "rows columns"], labels: Float[Tensor, " rows"]) -> Bool[Tensor, " columns"]:
    """Which columns tell one class from all others."""
    found = torch.zeros(columns.shape[1], dtype=torch.bool)
    for each in labels.unique():
        if 0 < int((labels == each).sum()) < len(labels):
            found |= is_line(columns, (labels == each).double())
    return found


def is_renamed(columns: Float[Tensor, "rows columns"], labels: Float[Tensor, " rows"]) -> Bool[Tensor, " columns"]:
    """Which columns have one number per class, different for all of them, and are no line."""
    means: list[Shaped[Tensor, " columns"]] = []
    constant = torch.ones(columns.shape[1], dtype=torch.bool)
    for each in labels.unique():
        rows = columns[labels == each]
        constant &= (rows == rows[:1]).all(0)
        means.append(rows[0])
    ordered = torch.stack(means).sort(dim=0).values
    return constant & (ordered.diff(dim=0) > 0).all(0) & ~is_line(columns, labels)


LABEL_COPIES = Probe(
    name="label-copies",
    question="Is a number of the input the label itself?",
    measure=label_copies,
    whole_batches=True,
)
