"""Mix the rows of a pass."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from diagnostics.batch_rows import refuse_unless_rows, row_parts, taken
from diagnostics.intervention import Intervention
from diagnostics.subject import Batch, Subject

BUFFER = 256  # batches that are mixed with each other


def shuffle_rows(subject: Subject) -> Subject:
    """The subject whose batches are made of rows drawn from the next 256 batches.

    Raises:
        ValueError: its batches cannot be taken apart into rows.
    """
    axis = subject.batch_axis
    refuse_unless_rows(next(subject.batches(0)), axis)

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        source = subject.batches(seed)
        while every := list(islice(source, BUFFER)):
            counts = [len(row_parts(batch, axis)[0]) for batch in every]
            for rows in torch.randperm(sum(counts), generator=generator).split(counts):
                yield taken(every, rows, axis)

    return replace(subject, batches=batches)


SHUFFLE_ROWS = Intervention(name="shuffle-rows", does="mix the rows of a pass over the data", apply=shuffle_rows)
