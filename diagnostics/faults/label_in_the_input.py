"""The label stands among the input's features.

Shows as:      a loss near zero within a few steps, on training and held-out data alike; useless on new data.
Why it hurts:  the model reads the answer off; it learns nothing that holds where the answer is not given.
Measured by:   label-copies: every number of the inputs, compared with the labels of the first batches.
Judged by:     a column that is the label (up to a factor and a shift), is its indicator, or renames it, on more rows
               than chance can explain. Grade: proof.
Looks like:    validation-overlaps-training.
Remedy:        drop the target's column, and what is computed from it, before the features are made.
Blind spots:   labels mixed into several columns or with noise; tokens, and tasks whose answer is a feature on
               purpose; targets that are not one number per row, and losses written out by hand.
Source:        Kaufman et al. 2012, "Leakage in data mining: formulation, detection, and avoidance". ENOUGH: ours; a
               fair coin agrees with a label on 64 rows with probability 2^-64.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from diagnostics.batch_rows import by_row, labels_of, row_parts
from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.hide_label import HIDE_LABEL
from diagnostics.probes.label_copies import LABEL_COPIES, LabelCopies
from diagnostics.probes.passes import has_labels
from diagnostics.rows import mapped
from diagnostics.subject import Batch, Subject

ENOUGH = 64  # rows


def judge(copies: LabelCopies) -> Verdict:
    """Present where a column is the label."""
    found = copies.equal + copies.indicators + copies.decided
    numbers = {"columns": float(copies.columns), "copies": float(found), "rows": float(copies.rows)}
    if not copies.rows or not copies.columns:
        return not_tested("there are no floating-point inputs beside one target number per row")
    if copies.classes == 1:
        return not_tested("all labels are the same")
    seen = f"{found} of {copies.columns} numbers of the input agree with the label on all of {copies.rows} rows"
    if not found:
        return absent(f"no number of the input is the label: {seen}", **numbers)
    if copies.rows < ENOUGH:
        return unclear(f"{seen}, which are too few", **numbers)
    ways = (
        f"{copies.equal} are the label itself up to a factor and a shift, {copies.indicators} are indicators of one "
        f"class, {copies.decided} give each class a number of its own"
    )
    return present(f"{seen}: {ways}", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose last input number is overwritten by the label.

    Raises:
        ValueError: its rows have no label, or its inputs are no floating-point numbers.
    """
    axis = subject.batch_axis
    with open_bench(subject, 0) as bench:
        batch = bench.batch(0)
        if not has_labels(bench, batch):
            raise ValueError(f"{subject.name} has no label per row")
    first = row_parts(batch, axis)[0]
    if not first.is_floating_point() or first.numel() == len(first):
        raise ValueError(f"{subject.name} has inputs that cannot hold a label")

    def leaked(batch: Batch) -> Batch:
        labels = labels_of(batch, axis)
        edited: list[bool] = []

        def change(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
            if edited or labels is None:
                return tensor
            edited.append(True)
            rows = by_row(tensor, axis).clone(memory_format=torch.contiguous_format)
            rows.view(len(rows), -1)[:, -1] = labels.to(rows)
            return rows.movedim(0, axis)

        return mapped(batch, change)

    def batches(seed: int) -> Iterator[Batch]:
        yield from map(leaked, subject.batches(seed))

    heldout = subject.heldout
    return replace(
        subject, batches=batches, heldout=None if heldout is None else lambda seed: map(leaked, heldout(seed))
    )


FAULT = Fault(
    id="label-in-the-input",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=38,
    measured_by=(LABEL_COPIES,),
    judge=judge,
    plant=plant,
    remedies=(HIDE_LABEL,),
    looks_like=("validation-overlaps-training",),
    wrong="features = table.to_numpy()  # the column 'price' is what is to be predicted\ntargets = table['price']",
    right="features = table.drop(columns='price').to_numpy()\ntargets = table['price']",
)
