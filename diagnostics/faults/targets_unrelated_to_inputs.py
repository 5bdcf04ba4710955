"""Inputs are paired with the targets of other samples.

Shows as:      a loss that rests at the entropy of the frequencies on fresh batches, while one batch can be learned by
               heart.
Why it hurts:  what is read tells nothing about what is asked for.
Measured by:   score-origin: whose next tokens each sample's targets are.
Judged by:     at least MOST of the samples in a batch with targets that are the next tokens of another sample of the
               same batch, and not their own. Grade: sign.
Looks like:    at-the-entropy-floor, logits-over-the-wrong-axis, targets-shifted-too-far.
Remedy:        shuffle indices once and index inputs and targets with them; one dataset that gives pairs.
Blind spots:   targets from outside the batch; labels of a classifier, which noise cannot be told from.
Source:        Zhang et al. 2017: networks learn random labels by heart. MOST: ours; a permutation keeps one sample in
               its place on average.
"""

from collections.abc import Callable
from typing import Any

import torch

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.probes.score_origin import SCORE_ORIGIN, ScoreOrigin
from diagnostics.subject import Subject

MOST = 0.5
FEW = 0.25


def judge(origin: ScoreOrigin) -> Verdict:
    """Present where targets belong to other samples of the batch."""
    read = [each for each in origin.arguments if each.read]
    if not read:
        return not_tested("no argument of the model holds tokens, one for each position that is predicted")
    if any(each.shift is not None for each in read):
        return absent("the targets are tokens of their own sample")
    worst = max(read, key=lambda each: each.other_rows)
    said = (
        f"the targets of {worst.other_rows:.0%} of the samples are the next tokens of another sample ({worst.argument})"
    )
    numbers = {"share of samples": worst.other_rows}
    if worst.other_rows >= MOST:
        return present(f"{said}, and none has its own", **numbers)
    return (unclear if worst.other_rows >= FEW else absent)(said, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose targets belong to the sample before.

    Raises:
        ValueError: its model has no argument that holds the next tokens.
    """
    with open_bench(subject, 0) as bench:
        origin = SCORE_ORIGIN.measure(bench)
    if [each.shift for each in origin.arguments] != [1]:
        raise ValueError("not exactly one argument of the model holds the next tokens; what to mix up is not clear")
    axis = subject.batch_axis
    positions = origin.output[1 - axis]

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        wanted = given["target"]
        if wanted.dim() == 1 and wanted.numel() % positions == 0:
            shape = (-1, positions) if axis == 0 else (positions, -1)
            return func(**given | {"target": torch.roll(wanted.reshape(shape), 1, axis).reshape(-1)})
        return func(**given | {"target": torch.roll(wanted, 1, axis if wanted.dim() > 1 else 0)})

    return with_edited_loss(subject, change)


FAULT = Fault(
    id="targets-unrelated-to-inputs",
    family="data",
    grade="sign",
    concerns="honesty",
    repair_rank=22,
    measured_by=(SCORE_ORIGIN,),
    judge=judge,
    plant=plant,
    looks_like=("at-the-entropy-floor", "logits-over-the-wrong-axis", "targets-shifted-too-far"),
    wrong="inputs, targets = inputs[torch.randperm(n)], targets[torch.randperm(n)]",
    right="order = torch.randperm(n)\ninputs, targets = inputs[order], targets[order]",
)
