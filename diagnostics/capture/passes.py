"""Which batches make one pass over the script's data, and in which order the next passes have them."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from diagnostics.bench import EPOCH
from diagnostics.capture.recording import Event, Pass
from diagnostics.capture.tape import RecordedBatch
from diagnostics.subject import Batch


@dataclass(frozen=True, kw_only=True)
class Data:
    """The recorded batches as a subject gives them.

    Args:
        batches: seed -> a pass: the recorded ones where there are whole ones, each next seed or epoch the next of them;
            otherwise everything that was recorded, for other seeds in another order.
        whole: whether that is all of the script's training data.
    """

    batches: Callable[[int], Iterator[Batch]]
    whole: bool


def data_of(events: Sequence[Event], batches: dict[int, RecordedBatch]) -> Data:
    """The data behind a recording; ``batches`` by the identity of the backward pass that they belong to."""
    everything = [batches[id(event)] for event in events if id(event) in batches]
    passes = whole_passes(events, batches) or repeated(everything)
    if not passes:
        return Data(batches=in_orders_of_the_seed(everything), whole=False)
    if len(passes) == 1 and not repeats(everything, passes[0]):
        return Data(batches=in_orders_of_the_seed(passes[0]), whole=True)
    return Data(batches=lambda seed: iter(passes[(seed // EPOCH + seed % EPOCH) % len(passes)]), whole=True)


def in_orders_of_the_seed(batches: Sequence[RecordedBatch]) -> Callable[[int], Iterator[Batch]]:
    """seed -> the batches: in the script's order for 0, otherwise in an order of the seed's own."""

    def passes(seed: int) -> Iterator[Batch]:
        order = list(batches)
        if seed:
            random.Random(seed).shuffle(order)
        return iter(order)

    return passes


def whole_passes(events: Sequence[Event], batches: dict[int, RecordedBatch]) -> list[list[RecordedBatch]]:
    """The passes that trained on every batch of the data loader that most of the training batches came from.

    A validation in the middle of one has a loader of its own. A script that begins a pass for each batch, and takes its
    first one, makes no whole pass.
    """
    training = loader_in_training(events, batches)
    passes: list[tuple[int, list[RecordedBatch]]] = []
    for event in events:
        if isinstance(event, Pass) and event.loader == training:
            passes.append((event.length, []))
        elif id(event) in batches and passes:
            passes[-1][1].append(batches[id(event)])
    return [found for length, found in passes if found and len(found) == length]


def loader_in_training(events: Sequence[Event], batches: dict[int, RecordedBatch]) -> int | None:
    """The loader whose pass had begun last before most of the backward passes, the first of them counted."""
    counts: dict[int, int] = {}
    last: int | None = None
    for event in events:
        if isinstance(event, Pass):
            last = event.loader
        elif id(event) in batches and last is not None:
            counts[last] = counts.get(last, 0) + 1
    return max(counts, key=lambda loader: counts[loader]) if counts else None


def repeated(batches: Sequence[RecordedBatch]) -> list[list[RecordedBatch]]:
    """The pass that repeats itself, where a script without a data loader goes through the same batches in order again.

    A single batch that is always the same is no pass: whoever overfits one batch has chosen it out of more.
    """
    period = next((i for i in range(1, len(batches)) if alike(batches[0], batches[i])), None)
    if period is None or period == 1 or len(batches) < 2 * period:
        return []
    return [list(batches[:period])] if repeats(batches, batches[:period]) else []


def repeats(batches: Sequence[RecordedBatch], first: Sequence[RecordedBatch]) -> bool:
    """Whether what comes after a first pass is that pass again, as far as it was seen."""
    later = batches[len(first) :]
    return bool(later) and all(alike(batch, first[i % len(first)]) for i, batch in enumerate(later))


def is_always_the_same(batches: Sequence[RecordedBatch]) -> bool:
    """Whether every batch is the first one again."""
    return len(batches) > 1 and all(alike(batches[0], batch) for batch in batches[1:])


def alike(one: RecordedBatch, other: RecordedBatch) -> bool:
    """Whether two batches hold the same numbers."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
