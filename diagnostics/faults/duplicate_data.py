"""Many training rows are copies of each other.

Shows as:      a training loss that falls below what new data cost, and text that is recited word by word.
Why it hurts:  copies are learned by heart first, take the steps that other rows should have, and make the data look
               larger than they are.
Measured by:   passes: how often each row of a pass occurs, and where the copies stand.
Judged by:     one rich row that makes up much of the pass; copies within a batch far beyond what drawing with
               replacement gives; or rows that all occur equally often and come again before every one has come once.
               Grade: sign.
Looks like:    same-batch-again-and-again, validation-overlaps-training.
Remedy:        remove exact copies before splitting into training and held-out data.
Blind spots:   copies that differ in a character; a pass that was not seen to its end; small sets drawn with
               replacement, which look like few copies of everything; repeated passages inside of longer windows.
Source:        Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better". The bounds are ours.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from diagnostics.batch_rows import row_parts, taken
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.drop_duplicate_rows import DROP_DUPLICATE_ROWS
from diagnostics.probes.passes import BATCHES, PASSES_PROBE, Passes
from diagnostics.subject import Batch, Subject

MANY = 0.25  # share of rows
RICH = 5  # different numbers in a row; poorer rows coincide by chance
BY_CHANCE = 0.2  # of MANY: what drawing with replacement may explain
EQUAL = 0.2  # variance over mean of the number of occurrences; 1 where drawn at random
EARLY = 0.1
TWICE = 2.0  # occurrences per row; below, drawing with replacement is even as well
ENOUGH = 20  # different rows
KEPT = 8  # of the planted rows, one in so many


def judge(passes: Passes) -> Verdict:
    """Present where copies cannot come from drawing at random."""
    if not passes.whole:
        return not_tested("the batches are a sample of the data; nothing follows from their repetition")
    copies = 1 - passes.distinct_rows / passes.all_rows
    numbers = {"copies": copies, "different rows": float(passes.distinct_rows), "rows": float(passes.all_rows)}
    seen = f"{passes.distinct_rows} of {passes.all_rows} rows of a pass are different"
    if copies < MANY or passes.distinct < 2:
        return absent(seen, **numbers)
    if passes.values_per_row < RICH or passes.distinct_rows < ENOUGH:
        return unclear(
            f"{seen}, but rows of {passes.values_per_row:.0f} different numbers coincide by chance", **numbers
        )
    drawn = passes.rows / passes.distinct_rows
    if passes.commonest >= MANY:
        return present(f"{seen}; one row alone makes up {passes.commonest:.0%}", **numbers)
    if passes.copies_in_batch >= MANY and drawn <= BY_CHANCE * MANY:
        return present(f"{seen}; within a batch {passes.copies_in_batch:.0%} of the rows are copies", **numbers)
    equal = passes.ended and passes.repeats >= TWICE and passes.dispersion <= EQUAL and passes.early_repeats >= EARLY
    if equal and passes.shifted < copies / 2:
        return present(
            f"{seen}; each occurs {passes.repeats:.1f} times (variance over mean {passes.dispersion:.2f}, drawn at "
            f"random 1), and {passes.early_repeats:.0%} of them come again before all have come once",
            **numbers,
        )
    if passes.early_repeats < EARLY and passes.copies_in_batch < EARLY:
        return absent(f"{seen}, but none comes again before nearly all have come once", **numbers)
    return unclear(f"{seen}, which drawing with replacement from a small set gives as well", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose pass is made of one row in eight, each in eight copies, mixed.

    Raises:
        ValueError: its batches cannot be taken apart into rows, or hold too few.
    """
    axis = subject.batch_axis
    every = list(islice(subject.batches(0), BATCHES))
    counts = [len(row_parts(batch, axis)[0]) for batch in every if row_parts(batch, axis)]
    if len(counts) < len(every) or sum(counts) < ENOUGH * KEPT:
        raise ValueError(f"{subject.name} has {sum(counts)} rows; {ENOUGH * KEPT} are needed to leave some different")

    def batches(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.arange(0, sum(counts), KEPT).repeat(KEPT)
        mixed = rows[torch.randperm(len(rows), generator=generator)]
        for part in mixed.tensor_split(len(every)):
            yield taken(every, part, axis)

    return replace(subject, batches=batches)


FAULT = Fault(
    id="duplicate-data",
    family="data",
    grade="sign",
    concerns="neither",
    repair_rank=93,
    measured_by=(PASSES_PROBE,),
    judge=judge,
    plant=plant,
    remedies=(DROP_DUPLICATE_ROWS,),
    looks_like=("same-batch-again-and-again", "validation-overlaps-training"),
    wrong="rows = rows * 10  # to have more data",
    right="rows = list(dict.fromkeys(rows))",
)
