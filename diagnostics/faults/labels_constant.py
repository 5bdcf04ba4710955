"""All targets are the same class.

Shows as:      a loss that falls to zero within a few steps, and predictions that never change.
Why it hurts:  there is nothing to tell apart: the bias of the last layer learns it all.
Measured by:   class-counts: the classes among the targets of many batches.
Judged by:     a single class among at least ENOUGH targets of several batches that are all of the data, or more
               batches than would be sorted by class. Grade: proof.
Looks like:    all-targets-ignored, targets-unrelated-to-inputs.
Remedy:        look at the labels as they leave the loader; a column that is read as 0 throughout, ``labels * 0``, a
               comparison that is never true.
Blind spots:   targets that the loss computes, of which one batch is seen; batches sorted by class, where only the
               first ones are looked at.
Source:        Shannon 1948: the entropy of a certain outcome is zero. ENOUGH: ours.
"""

from collections.abc import Callable
from typing import Any

import torch

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.probes.class_counts import CLASS_COUNTS, ClassCounts
from diagnostics.subject import Subject

ENOUGH = 32


def judge(counts: ClassCounts) -> Verdict:
    """Present where nothing but one class occurs."""
    if not counts.classes or not counts.targets:
        return not_tested("no call of cross_entropy or nll_loss with classes for targets was seen")
    said = f"{counts.distinct} of {counts.classes} classes occur among the first {counts.targets} targets"
    numbers = {"distinct": float(counts.distinct), "targets": float(counts.targets)}
    if counts.distinct > 1:
        return absent(said, **numbers)
    if counts.targets < ENOUGH or not counts.whole_data or (counts.truncated and not counts.is_stream):
        return unclear(f"{said}, which may be chance or an order by class", **numbers)
    return present(f"{said}: class {counts.most_common}, in each of {counts.batches} batches", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose targets are all class 0, unless they are left out."""

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        wanted = given["target"]
        if wanted.is_floating_point():
            return func(**given)
        left_out = given.get("ignore_index", -100)
        constant = torch.full_like(wanted, int(left_out == 0))
        return func(**given | {"target": torch.where(wanted == left_out, wanted, constant)})

    return with_edited_loss(subject, change)


FAULT = Fault(
    id="labels-constant",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=20,
    measured_by=(CLASS_COUNTS,),
    judge=judge,
    plant=plant,
    looks_like=("all-targets-ignored", "targets-unrelated-to-inputs"),
    wrong="labels = (scores > 1.0).long()  # scores are probabilities: never true",
    right="labels = (scores > 0.5).long()",
)
