"""What the batches of one pass and of the next hold: other rows, the same ones, in which order."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from diagnostics.batch_rows import batch_key, labels_of, plain, row_keys, row_parts
from diagnostics.bench import EPOCH, Bench
from diagnostics.probe import Probe
from diagnostics.subject import Batch
from diagnostics.watch import TorchCalls

BATCHES = 64  # of the first pass, at most
OTHERS = 6  # batches of each further pass
PASSES = 3
FEW = 7
FEW_CLASSES = 0.5  # whole numbers with fewer different values than this share of the rows are classes


@dataclass(frozen=True, kw_only=True)
class Passes:
    """The training batches as the subject gives them.

    Args:
        whole: whether the subject says that its batches are all of its data.
        batches: of the first pass that were looked at, up to 64.
        ended: whether that pass has no more.
        rows: in the first batch.
        distinct: different batches among those, by value.
        in_a_row: how many batches from the first on are equal to the first.
        passes_alike: whether the first batches of three passes with different seeds are equal, in order.
        later_rows: whether another pass has rows that none of the first pass's batches holds.
        all_rows / distinct_rows: rows in those batches, and how many different ones.
        shifted: rows of a stream (integers of one length) that are another row moved by one place, as a share: how
            often windows of one text overlap by chance.
        repeats: mean number of times that each of these rows occurs. ``dispersion``: variance of that number over its
            mean, about 1 where rows are drawn at random with replacement, 0 where all occur equally often.
        early_repeats: share of copies among the first ``distinct_rows`` rows: 0 where every row comes once before any
            comes again.
        copies_in_batch: share of rows that are a copy of another one in their own batch.
        commonest: share of rows that are the most frequent one. ``values_per_row``: different numbers in a row, median.
        heldout_rows: different held-out rows, in up to six batches; None where nothing is held out.
        text_tokens: length of the training text; None without one. ``batch_tokens``: in the first batch.
        classes: different labels of the first pass; 0 where labels are values; None where the loss's targets are not
            one number per row of the batch.
        heldout_classes: labels of the held-out rows that the first pass lacks; None likewise.
        between: share of the labels' variance that lies between batches; 1 / rows where they are mixed; None likewise.
    """

    whole: bool
    batches: int
    ended: bool
    rows: int
    distinct: int
    in_a_row: int
    passes_alike: bool
    later_rows: bool
    all_rows: int
    distinct_rows: int
    shifted: float
    repeats: float
    dispersion: float
    early_repeats: float
    copies_in_batch: float
    commonest: float
    values_per_row: float
    heldout_rows: int | None
    text_tokens: int | None
    batch_tokens: int | None
    classes: int | None
    heldout_classes: int | None
    between: float | None


def passes(bench: Bench) -> Passes:
    """Batches of the first pass, of two more with other seeds, and of the held-out pass.

    Raises:
        ValueError: the batches hold no tensors with one entry per sample.
    """
    subject, axis = bench.subject, bench.subject.batch_axis
    first = list(islice(subject.batches(bench.seed), BATCHES))
    if not first or not row_keys(first[0], axis):
        raise ValueError("the batches hold no tensors with one entry per sample; there are no rows to compare")
    others = [list(islice(subject.batches(bench.seed + EPOCH * k), OTHERS)) for k in range(1, PASSES)]
    heldout = [] if subject.heldout is None else list(islice(subject.heldout(bench.seed), OTHERS))
    keys = [batch_key(batch) for batch in first]
    rows = [row_keys(batch, axis) for batch in first]
    seen = {row for each in rows for row in each}
    labels, held = [], []
    if has_labels(bench, first[0]):
        labels = [label for batch in first if (label := labels_of(batch, axis)) is not None]
        held = [label for batch in heldout if (label := labels_of(batch, axis)) is not None]
    flat = [row for each in rows for row in each]
    counts = Counter(flat)
    times = torch.tensor(list(counts.values())).double()
    text, view = subject.text_view, subject.token_view
    return Passes(
        whole=subject.whole_data,
        batches=len(first),
        ended=len(first) < BATCHES,
        rows=len(rows[0]),
        distinct=len(set(keys)),
        in_a_row=next((index for index, key in enumerate(keys) if key != keys[0]), len(keys)),
        passes_alike=all([batch_key(b) for b in other] == keys[: len(other)] for other in others),
        later_rows=any(row not in seen for other in others for batch in other for row in row_keys(batch, axis)),
        all_rows=len(flat),
        distinct_rows=len(counts),
        shifted=shifted_share(first, axis),
        repeats=float(times.mean()),
        dispersion=float(times.var(correction=0) / times.mean()),
        early_repeats=1 - len(set(flat[: len(counts)])) / len(counts),
        copies_in_batch=1 - sum(len(set(each)) for each in rows) / len(flat),
        commonest=float(times.max()) / len(flat),
        values_per_row=values_per_row(first[0], axis),
        heldout_rows=len({row for batch in heldout for row in row_keys(batch, axis)}) if subject.heldout else None,
        text_tokens=None if text is None else len(text.train_tokens),
        batch_tokens=None if view is None else view.tokens(first[0]).numel(),
        classes=len(classes_of(labels)) if labels else None,
        heldout_classes=len(classes_of(held) - classes_of(labels)) if labels and held else None,
        between=between_batches(labels) if labels else None,
    )


TARGETED = (
    *(F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss),
    *(F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.gaussian_nll_loss, F.poisson_nll_loss),
)


class TargetWatch(TorchCalls):
    """Keeps what the losses are given as targets."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Tensor] = []

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep the second argument of a loss."""
        if func in TARGETED:
            self.targets.append(kwargs.get("target", args[1] if len(args) > 1 else None))
        return func(*args, **kwargs)


def has_labels(bench: Bench, batch: Batch) -> bool:
    """Whether the one number per row that a batch ends with is what its loss compares with."""
    labels = labels_of(batch, bench.subject.batch_axis)
    if labels is None:
        return False
    with torch.no_grad(), TargetWatch() as watch:
        bench.loss(batch=batch)
    flat = [plain(each).reshape(-1) for each in watch.targets if isinstance(each, Tensor)]
    return any(each.shape == labels.shape and bool((each == labels).all()) for each in flat)


def values_per_row(batch: Batch, axis: int) -> float:
    """Different numbers in a row, the median over the first few rows."""
    parts = [plain(part).reshape(len(part), -1) for part in row_parts(batch, axis)]
    counts = [sum(len(part[row].unique()) for part in parts) for row in range(min(FEW, len(parts[0])))]
    return float(statistics.median(counts))


def epoch_of(rows: Sequence[Sequence[bytes]]) -> int:
    """Batches before the first one that holds nothing new: there the data begin anew."""
    seen: set[bytes] = set()
    for index, batch in enumerate(rows):
        if index and seen.issuperset(batch):
            return index
        seen.update(batch)
    return len(rows)


def shifted_share(batches: Sequence[Batch], axis: int) -> float:
    """Share of rows whose first part, without its first entry, is another row's without its last."""
    parts = [row_parts(batch, axis)[0] for batch in batches]
    if any(part.dim() != 2 or part.is_floating_point() for part in parts):
        return 0.0
    starts = {row.tobytes() for part in parts for row in part[:, :-1].detach().cpu().numpy()}
    ends = [row.tobytes() for part in parts for row in part[:, 1:].detach().cpu().numpy()]
    return sum(end in starts for end in ends) / len(ends)


def classes_of(labels: Sequence[Shaped[Tensor, " _"]]) -> set[int]:
    """The different labels; empty where they are values, not classes."""
    if not labels or any(each.is_floating_point() for each in labels):
        return set()
    every = torch.cat(list(labels))
    found = set(every.unique().tolist())
    return found if len(found) <= max(2, FEW_CLASSES * len(every)) else set()


def between_batches(labels: Sequence[Shaped[Tensor, " _"]]) -> float:
    """Variance of the batches' means over variance of the labels; classes count as one column each. NaN if constant."""
    every = torch.cat(list(labels))
    classes = sorted(classes_of(labels))

    def columns(values: Shaped[Tensor, " rows"]) -> Float[Tensor, "rows _"]:
        if not classes:
            return values[:, None].double()
        return torch.stack([values == each for each in classes], dim=1).double()

    centre = columns(every).mean(0)
    total = (columns(every) - centre).square().sum()
    between = sum(len(each) * (columns(each).mean(0) - centre).square().sum() for each in labels)
    return float(between / total)


PASSES_PROBE = Probe(
    name="passes",
    question="Do batches and passes hold other rows, and in which order?",
    measure=passes,
    whole_batches=True,
)
