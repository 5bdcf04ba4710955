"""The batches come in the order of their labels.

Shows as:      a training loss with steps or saw teeth, and a model that knows only what it saw last.
Why it hurts:  each batch pulls the model towards its own few labels, and the next one pulls it elsewhere; batch norms
               see one kind of sample at a time.
Measured by:   passes: how much of the labels' variance lies between batches, and which labels the held-out rows have.
Judged by:     most of the variance between batches, where 1 / rows is what mixing leaves; or one class throughout while
               held-out rows have others. Grade: sign.
Looks like:    same-batch-again-and-again, duplicate-data.
Remedy:        DataLoader(..., shuffle=True), or one permutation of all rows per epoch.
Blind spots:   targets that are not one number per row, losses written out by hand, and orders by anything but the
               label. Windows of a text read in order are let pass. A sorted pass whose first 64 batches are of one
               class is only seen by what is held out.
Source:        Bengio 2012, "Practical Recommendations for Gradient-Based Training of Deep Architectures", 3.1.
               MOST: ours; mixed batches of n rows have 1 / n.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import torch

from diagnostics.batch_rows import labels_of, taken
from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.shuffle_rows import SHUFFLE_ROWS
from diagnostics.probes.passes import BATCHES, PASSES_PROBE, Passes, has_labels
from diagnostics.subject import Batch, Subject

MOST = 0.5  # share of the labels' variance between batches
PERHAPS = 0.3
ENOUGH_ROWS, ENOUGH_BATCHES, ENOUGH_LABELS = 8, 4, 64


def judge(passes: Passes) -> Verdict:
    """Present where a batch's labels are nearly all it can be told apart by."""
    if not passes.whole:
        return not_tested("the batches are a sample of the data; nothing follows from their order")
    if passes.classes is None or passes.between is None:
        return not_tested("the loss compares with something else than one number per row")
    mixed = 1 / passes.rows
    numbers = {"variance between batches": passes.between, "if mixed": mixed}
    if passes.rows < ENOUGH_ROWS or passes.batches < ENOUGH_BATCHES:
        return unclear(f"{passes.batches} batches of {passes.rows} rows are too few to see an order", **numbers)
    if passes.classes == 1:
        if passes.heldout_classes and passes.batches * passes.rows >= ENOUGH_LABELS:
            return present(
                f"the first {passes.batches} batches of {passes.rows} rows are all of one class, and what is held out "
                f"has {passes.heldout_classes} others",
                **numbers,
            )
        return unclear(f"the first {passes.batches} batches are all of one class", **numbers)
    seen = f"{passes.between:.0%} of the labels' variance lies between batches; mixed, it would be {mixed:.0%}"
    if passes.between >= MOST:
        return present(seen, **numbers)
    return (unclear if passes.between >= max(PERHAPS, 3 * mixed) else absent)(seen, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose passes have their rows sorted by label.

    Raises:
        ValueError: its rows have no labels.
    """
    axis = subject.batch_axis
    with open_bench(subject, 0) as bench:
        if not has_labels(bench, bench.batch(0)):
            raise ValueError(f"{subject.name} has no label per row to sort by")

    def batches(seed: int) -> Iterator[Batch]:
        every = list(islice(subject.batches(seed), BATCHES))
        labels = torch.cat([label for batch in every if (label := labels_of(batch, axis)) is not None])
        for rows in torch.argsort(labels, stable=True).tensor_split(len(every)):
            yield taken(every, rows, axis)

    return replace(subject, batches=batches)


FAULT = Fault(
    id="unshuffled-batches",
    family="data",
    grade="sign",
    concerns="honesty",
    repair_rank=92,
    measured_by=(PASSES_PROBE,),
    judge=judge,
    plant=plant,
    remedies=(SHUFFLE_ROWS,),
    looks_like=("same-batch-again-and-again", "duplicate-data"),
    wrong="loader = DataLoader(data, batch_size=64)  # the files lie in one folder per class",
    right="loader = DataLoader(data, batch_size=64, shuffle=True)",
)
