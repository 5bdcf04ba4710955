"""Take out of the held-out pass what stands in the training data."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import torch

from diagnostics.batch_rows import plain, refuse_unless_rows, row_keys, taken
from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.probes.heldout_overlap import runs_of, same_width, training_batches, windows
from diagnostics.subject import Batch, Subject


def leave_out_training_rows(subject: Subject) -> Subject:
    """The subject whose held-out pass has no row, and no long run of tokens, of the training batches.

    Raises:
        ValueError: nothing would be left, or the batches cannot be taken apart into rows.
    """
    axis, heldout = subject.batch_axis, subject.heldout
    assert heldout is not None
    refuse_unless_rows(next(heldout(0)), axis)
    with open_bench(subject, 0) as bench:
        train = training_batches(bench)
    rows = {row for batch in train for row in row_keys(batch, axis)}
    shares_run = run_finder(subject, train)

    def kept(seed: int) -> Iterator[Batch]:
        for batch in heldout(seed):
            copied = shares_run(batch)
            keep = [i for i, key in enumerate(row_keys(batch, axis)) if key not in rows and i not in copied]
            if keep:
                yield taken([batch], torch.tensor(keep), axis)

    if not any(True for _ in islice(kept(0), 1)):
        raise ValueError("every held-out row stands in the training data; nothing would be left to hold out")
    return replace(subject, heldout=kept)


def run_finder(subject: Subject, train: list[Batch]) -> Callable[[Batch], set[int]]:
    """held-out batch -> its rows that share a run of tokens with the training batches."""
    view = subject.token_view
    if view is None:
        return lambda batch: set()
    tokens = [plain(view.tokens(batch)).long() for batch in train]
    found = runs_of(torch.cat(tokens), tokens[0]) if same_width(tokens, tokens) else None
    if found is None:
        return lambda batch: set()
    length, known = found.length, windows(torch.cat(tokens), found.length)[0].unique()

    def copied(batch: Batch) -> set[int]:
        stream = plain(view.tokens(batch)).long()
        if stream.shape[1] < length:
            return set()
        runs, places = windows(stream, length)
        return set(places[torch.isin(runs, known), 0].tolist())

    return copied


LEAVE_OUT_TRAINING_ROWS = Intervention(
    name="leave-out-training-rows",
    does="take out of the held-out data what stands in the training data",
    apply=leave_out_training_rows,
    needs=("heldout",),
)
