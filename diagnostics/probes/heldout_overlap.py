"""Whether what is held out stands in the training data, and whether it is of the same kind."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from diagnostics.batch_rows import plain, row_keys, row_parts
from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.passes import epoch_of
from diagnostics.rows import tensors
from diagnostics.subject import Batch

TRAIN_BATCHES, HELDOUT_BATCHES = 256, 8
ELEMENTS = 400_000  # numbers in the training batches that are looked at, at most
KNOWN = 4  # tokens after which a run's chance to go on is counted
SPAN = 8  # tokens in the stretches by which it is counted
RUNS = (8, 11, 16, 23, 32, 48, 64)  # lengths of runs that are tried, shortest first
CHANCE = 0.01  # share of runs that may be found by chance; the run length is chosen for it
COMPARED = 200  # found rows whose whole overlap is compared
PAIRS = 50  # pairs of stretches below which the chance to go on is taken as 1
HALF = 0.5
TEXT = 100_000  # tokens of each of the two texts, at most


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of consecutive held-out tokens that are looked for in the training tokens.

    Args:
        length: tokens in a run.
        by_chance: share that is expected to be found if the two have nothing but their statistics in common.
        found: share that is found.
        rows: held-out rows with a run that is found; 1 for a stream.
        to_the_end: share of those whose whole overlap with the training row agrees; NaN for streams.
    """

    length: int
    by_chance: float
    found: float
    rows: int
    to_the_end: float


@dataclass(frozen=True, kw_only=True)
class HeldoutOverlap:
    """Held-out rows beside training rows.

    Args:
        whole: whether the subject says that its batches are all of its data.
        train_rows / heldout_rows: different rows that were looked at.
        found: held-out rows that are training rows, value by value.
        alike: pairs of equal rows among the training rows of one epoch, of ``pairs``: what coincides by itself.
        runs: of tokens, in the batches; None without a token view or where every run may be chance.
        text_runs: the same in the beginnings of the text view's two streams.
        text_repeats: share of such runs in the training text's last tenth that its first nine tenths hold: how much the
            text repeats itself. None without text runs.
        token_shift: total variation between the token frequencies of training and held-out batches, 0 to 1; with
            ``token_shift_within`` the same between two halves of the training rows, one as large as the held-out part.
        mean_shift / scale_ratio: of the held-out inputs against the training inputs: difference of means in standard
            deviations of the numbers; ratio of the standard deviations. None where inputs are whole numbers.
        mean_shift_error: standard error of ``mean_shift``, from the means of rows.
    """

    whole: bool
    train_rows: int
    heldout_rows: int
    found: int
    alike: int
    pairs: int
    runs: Runs | None
    text_runs: Runs | None
    text_repeats: float | None
    token_shift: float | None
    token_shift_within: float | None
    mean_shift: float | None
    mean_shift_error: float | None
    scale_ratio: float | None


def heldout_overlap(bench: Bench) -> HeldoutOverlap:
    """Rows and runs of the held-out batches that are looked for in the training batches.

    Raises:
        ValueError: the batches hold no tensors with one entry per sample.
    """
    subject, axis = bench.subject, bench.subject.batch_axis
    assert subject.heldout is not None
    heldout = list(islice(subject.heldout(bench.seed), HELDOUT_BATCHES))
    train = training_batches(bench)
    rows, held = [row_keys(batch, axis) for batch in train], [row_keys(batch, axis) for batch in heldout]
    if not rows or not rows[0] or not held:
        raise ValueError("the batches hold no tensors with one entry per sample; there are no rows to compare")
    epoch = Counter(row for batch in rows[: epoch_of(rows)] for row in batch)
    count = sum(epoch.values())
    different = {row for batch in held for row in batch}
    text, view = subject.text_view, subject.token_view
    text_runs, text_repeats = (None, None) if text is None else runs_of_text(text.train_tokens, text.heldout_tokens)
    tokens, held_tokens = [], []
    if view is not None:
        tokens = [plain(view.tokens(batch)).long() for batch in train]
        held_tokens = [plain(view.tokens(batch)).long() for batch in heldout]
    shift, within = token_shift(tokens, held_tokens) if view is not None else (None, None)
    mean, error, scale = number_shift(train, heldout, axis)
    return HeldoutOverlap(
        whole=subject.whole_data,
        train_rows=len({row for batch in rows for row in batch}),
        heldout_rows=len(different),
        found=len(different & {row for batch in rows for row in batch}),
        alike=sum(times * (times - 1) // 2 for times in epoch.values()),
        pairs=count * (count - 1) // 2,
        runs=runs_of_rows(tokens, held_tokens) if tokens and same_width(tokens, held_tokens) else None,
        text_runs=text_runs,
        text_repeats=text_repeats,
        token_shift=shift,
        token_shift_within=within,
        mean_shift=mean,
        mean_shift_error=error,
        scale_ratio=scale,
    )


def training_batches(bench: Bench) -> list[Batch]:
    """The batches of the first pass, up to a number of batches and of elements."""
    batches: list[Batch] = []
    elements = 0
    for batch in islice(bench.subject.batches(bench.seed), TRAIN_BATCHES):
        batches.append(batch)
        elements += sum(part.numel() for part in tensors(batch))
        if elements > ELEMENTS:
            break
    return batches


def same_width(tokens: Sequence[Tensor], held: Sequence[Tensor]) -> bool:
    """Whether the rows of all batches have one length."""
    return len({each.shape[1:] for each in (*tokens, *held)}) == 1


def runs_of_rows(tokens: Sequence[Int[Tensor, "_ width"]], held: Sequence[Int[Tensor, "_ _"]]) -> Runs | None:
    """Runs of the held-out rows among the training rows."""
    return runs_of(torch.cat(list(tokens)), torch.cat(list(held)))


def runs_of_text(train: Int[Tensor, " n"], held: Int[Tensor, " m"]) -> tuple[Runs | None, float | None]:
    """Runs of the held-out text in the training text, and of the latter's end in its beginning."""
    stream, other = plain(train[:TEXT]).long()[None], plain(held[:TEXT]).long()[None]
    found = runs_of(stream, other)
    cut = stream.shape[1] * 9 // 10
    if found is None or stream.shape[1] - cut < found.length:
        return found, None
    return found, found_runs(stream[:, :cut], stream[:, cut:], found.length, found.by_chance).found


def runs_of(train: Int[Tensor, "rows width"], held: Int[Tensor, "held_rows held_width"]) -> Runs | None:
    """The shortest runs that cannot be found by chance, and how many are found; None where there are none."""
    width = min(train.shape[1], held.shape[1])
    lengths = sorted({length for length in (*RUNS, width) if SPAN <= length <= min(width, RUNS[-1])})
    if not lengths:
        return None
    together, goes_on = coincidence(train)
    for length in lengths:
        different = len(windows(train, length)[0].unique())
        by_chance = different * together * goes_on ** (length - KNOWN)
        if by_chance <= CHANCE:
            return found_runs(train, held, length, by_chance)
    return None


def windows(stream: Int[Tensor, "rows width"], length: int) -> tuple[Int[Tensor, " runs"], Int[Tensor, "runs 2"]]:
    """Every run of a length, as one number, with its row and place; not those that mostly repeat a token (padding)."""
    every = stream.unfold(1, length, 1)
    places = torch.cartesian_prod(torch.arange(every.shape[0]), torch.arange(every.shape[1]))
    repeats = F.pad((stream[:, 1:] == stream[:, :-1]).long().cumsum(1), (1, 0))
    varied = (repeats[:, length - 1 :] - repeats[:, : 1 - length or None]).flatten() <= HALF * (length - 1)
    return numbered(every).flatten()[varied], places[varied]


def numbered(runs: Int[Tensor, "*shape length"]) -> Int[Tensor, "*shape"]:
    """One number per run, equal for equal runs, and by chance with probability 2^-64 for others."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (runs.shape[-1],), generator=generator) * 2 + 1
    total = torch.zeros(runs.shape[:-1], dtype=torch.long)
    for place, factor in enumerate(factors):
        total += (runs[..., place] + 1) * factor
    return total


def coincidence(stream: Int[Tensor, "rows width"]) -> tuple[float, float]:
    """Chance that four tokens at two places agree, and that a fifth does then; bounds where few pairs were seen."""
    span = min(SPAN, stream.shape[1])
    every = stream.unfold(1, span, 1).reshape(-1, span)
    first = first_places(numbered(every))
    stretches = every[first]
    pairs = len(stretches) * (len(stretches) - 1)
    known, longer = alike(stretches[:, :KNOWN]), alike(stretches[:, : KNOWN + 1])
    goes_on = 1.0 if known < PAIRS else (longer + 3 * math.sqrt(longer + 1)) / known
    return (known + 3 * math.sqrt(known + 1)) / max(1, pairs), min(1.0, goes_on)


def first_places(numbers: Int[Tensor, " n"]) -> Int[Tensor, " different"]:
    """Where each different number stands first, in order of the numbers."""
    order = torch.argsort(numbers, stable=True)
    ordered = numbers[order]
    new = torch.ones(len(ordered), dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return order[new]


def alike(rows: Int[Tensor, "rows width"]) -> int:
    """Ordered pairs of equal rows."""
    counts = numbered(rows).unique(return_counts=True)[1]
    return int((counts * (counts - 1)).sum())


def found_runs(
    train: Int[Tensor, "rows width"], held: Int[Tensor, "held_rows held_width"], length: int, by_chance: float
) -> Runs:
    """How many held-out runs of this length are found, and whether the rows agree wherever they overlap."""
    runs, places = windows(train, length)
    wanted, at = windows(held, length)
    first = first_places(runs)
    place = torch.searchsorted(runs[first], wanted).clamp_max(max(0, len(first) - 1))
    hits = torch.where(runs[first][place] == wanted, first[place], -1).tolist() if len(first) else [-1] * len(wanted)
    pairs = {int(at[i, 0]): (at[i], places[hit]) for i, hit in enumerate(hits) if hit >= 0}
    some = list(pairs.values())[:COMPARED]
    agree = [overlap_agrees(held[here[0]], train[there[0]], int(there[1] - here[1])) for here, there in some]
    rows_compared = len(train) > 1 and bool(agree)
    return Runs(
        length=length,
        by_chance=by_chance,
        found=sum(hit >= 0 for hit in hits) / max(1, len(hits)),
        rows=len(pairs),
        to_the_end=sum(agree) / len(agree) if rows_compared else math.nan,
    )


def overlap_agrees(row: Int[Tensor, " held_width"], other: Int[Tensor, " width"], shift: int) -> bool:
    """Whether row[i] is other[i + shift] wherever both exist."""
    first, last = max(0, -shift), min(len(row), len(other) - shift)
    return torch.equal(row[first:last], other[first + shift : last + shift])


def token_shift(tokens: Sequence[Int[Tensor, "..."]], held: Sequence[Int[Tensor, "..."]]) -> tuple[float, float]:
    """Total variation of token frequencies: training against held out, and a part of training against the rest."""
    every, other = torch.cat([each.flatten() for each in tokens]), torch.cat([each.flatten() for each in held])
    cut = max(1, min(len(other), len(every) // 2))
    return variation(every[cut:], other), variation(every[cut:], every[:cut])


def variation(first: Int[Tensor, " n"], second: Int[Tensor, " m"]) -> float:
    """Half the summed difference of two frequency tables."""
    size = int(max(first.max(), second.max())) + 1
    shares = [torch.bincount(each.clamp_min(0), minlength=size) / len(each) for each in (first, second)]
    return float((shares[0] - shares[1]).abs().sum() / 2)


def number_shift(
    train: Sequence[Batch], heldout: Sequence[Batch], axis: int
) -> tuple[float | None, float | None, float | None]:
    """Shift of means in standard deviations, its error, and ratio of the deviations, of the first tensor's numbers."""
    ours, theirs = numbers_of(train, axis), numbers_of(heldout, axis)
    if ours is None or theirs is None:
        return None, None, None
    spread, means = float(ours.std()), (ours.flatten(1).mean(1), theirs.flatten(1).mean(1))
    if spread == 0 or min(map(len, means)) < 2:
        return None, None, None
    error = math.sqrt(sum(float(each.var()) / len(each) for each in means)) / spread
    return float(theirs.mean() - ours.mean()) / spread, error, float(theirs.std()) / spread


def numbers_of(batches: Sequence[Batch], axis: int) -> Float[Tensor, "rows _"] | None:
    """The inputs of some batches, where they are floating-point numbers of one shape."""
    parts: list[Shaped[Tensor, "..."]] = [row_parts(batch, axis)[0] for batch in batches if row_parts(batch, axis)]
    if not parts or len({each.shape[1:] for each in parts}) > 1 or not parts[0].is_floating_point():
        return None
    return torch.cat([plain(each).double().reshape(len(each), -1) for each in parts])


HELDOUT_OVERLAP = Probe(
    name="heldout-overlap",
    question="Does what is held out stand in the training data, and is it of the same kind?",
    measure=heldout_overlap,
    needs=("heldout",),
    whole_batches=True,
)
