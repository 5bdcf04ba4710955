"""Give every row once in a pass."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from diagnostics.batch_rows import refuse_unless_rows, row_keys, taken
from diagnostics.intervention import Intervention
from diagnostics.subject import Batch, Subject


def drop_duplicate_rows(subject: Subject) -> Subject:
    """The subject whose passes leave out every row that was there before in the same pass.

    Raises:
        ValueError: its batches cannot be taken apart into rows.
    """
    axis = subject.batch_axis
    refuse_unless_rows(next(subject.batches(0)), axis)

    def batches(seed: int) -> Iterator[Batch]:
        seen: set[bytes] = set()
        for batch in subject.batches(seed):
            keys = row_keys(batch, axis)
            new = [index for index, key in enumerate(keys) if key not in seen and key not in keys[:index]]
            seen.update(keys)
            if new:
                yield taken([batch], torch.tensor(new), axis)

    return replace(subject, batches=batches)


DROP_DUPLICATE_ROWS = Intervention(
    name="drop-duplicate-rows", does="leave out copies of rows within a pass", apply=drop_duplicate_rows
)
