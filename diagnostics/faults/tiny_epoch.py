"""A pass over the data is over after a few rows.

Shows as:      a training loss with a step at every pass, and a held-out loss that rises early.
Why it hurts:  the same few rows come again and again; what looks like thousands of steps is a few hundred passes.
Measured by:   passes: how many different rows three passes hold.
Judged by:     passes that end within a few batches and bring nothing new. Grade: deviation.
Looks like:    same-batch-again-and-again, duplicate-data, memorised-but-does-not-generalise.
Remedy:        more data, augmentation, or fewer steps; a larger share of the text for training.
Blind spots:   data sets that are small by nature; augmentation that changes every row a little hides it.
Source:        ours: a handful of batches per pass is far from what data are collected for, and harmless in a test.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.probes.passes import PASSES_PROBE, Passes
from diagnostics.subject import Batch, Subject

FEW = 5  # batches


def judge(passes: Passes) -> Verdict:
    """Present where a pass is short and the next one has the same rows."""
    if not passes.whole:
        return not_tested("the batches are a sample of the data; nothing follows from their number")
    seen = f"the first {passes.batches} batches of a pass hold {passes.distinct_rows} different rows"
    numbers = {"batches": float(passes.batches), "different rows": float(passes.distinct_rows)}
    if passes.later_rows or passes.distinct > FEW or passes.distinct_rows > FEW * passes.rows:
        return absent(f"{seen}, and there are more", **numbers)
    return present(f"{seen}, and further passes hold nothing else", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose data are its first few batches."""

    def batches(seed: int) -> Iterator[Batch]:
        yield from islice(subject.batches(0), FEW - 2)

    return replace(subject, batches=batches)


FAULT = Fault(
    id="tiny-epoch",
    family="data",
    grade="deviation",
    concerns="neither",
    repair_rank=94,
    measured_by=(PASSES_PROBE,),
    judge=judge,
    plant=plant,
    follows_from=("same-batch-again-and-again", "duplicate-data"),
    looks_like=("same-batch-again-and-again", "duplicate-data", "memorised-but-does-not-generalise"),
    wrong="data = data[:100]  # left over from a trial",
    right="data = data[: cut_for_training]",
)
