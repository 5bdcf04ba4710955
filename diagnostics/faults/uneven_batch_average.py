"""The validation loss is a mean over batches of very different size.

Shows as:      a validation loss that changes with the batch size, and that does not agree with another program's.
Why it hurts:  a short last batch, or one with few targets that count, weighs as much as a full one.
Measured by:   evaluation-average: the user's validation loss beside the mean over batches and the mean over targets.
Judged by:     batches of uneven size, a validation loss that is the mean over batches, and a mean over targets that is
               some percent away. Grade: sign.
Looks like:    evaluated-in-train-mode.
Remedy:        add up losses and counts, loss_fn(..., reduction="sum"), and divide once.
Blind spots:   evaluations over other batches than the held-out ones, or of another loss; uneven training batches.
Source:        ours. AWAY: a short last batch of a healthy loop moves the mean by less.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from diagnostics.batch_rows import refuse_unless_rows, row_parts, taken
from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.probes.evaluation_average import EVALUATION_AVERAGE, EvaluationAverage
from diagnostics.subject import Batch, Subject

SAME = 1e-4  # of the loss: rounding
AWAY = 0.05  # of the loss
PERHAPS = 0.02


def judge(average: EvaluationAverage) -> Verdict:
    """Present where the mean over batches is what is reported, and it is another."""
    reported, per_batch, per_target = average.reported, average.per_batch, average.per_target
    if not average.batches:
        return not_tested("there are no held-out batches, or too many to go through")
    if reported is None or per_batch is None or per_target is None:
        return absent(f"the held-out batches have between {average.fewest} and {average.most} targets that count")
    numbers = {"reported": reported, "mean over batches": per_batch, "mean over targets": per_target}
    seen = (
        f"the validation loss is {reported:.4f}; over {average.batches} batches of {average.fewest} to {average.most} "
        f"targets, the mean of the batches is {per_batch:.4f} and the mean of the targets {per_target:.4f}"
    )
    off = abs(per_batch - per_target) / max(abs(per_target), torch.finfo(torch.float32).tiny)
    if abs(reported - per_batch) > SAME * abs(per_batch):
        same = abs(reported - per_target) <= SAME * abs(per_target)
        return (absent if same else unclear)(seen, **numbers)
    if off >= AWAY:
        return present(f"{seen}, {off:.0%} apart", **numbers)
    return (unclear if off >= PERHAPS else absent)(seen, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose held-out pass ends in a batch of its costliest row, and whose evaluation averages batches.

    Raises:
        ValueError: it holds nothing out, its batches cannot be taken apart into rows, or these all cost the same.
    """
    heldout, axis = subject.heldout, subject.batch_axis
    if heldout is None:
        raise ValueError(f"{subject.name} holds nothing out")
    batch = next(heldout(0))
    refuse_unless_rows(batch, axis)
    with open_bench(subject, 0) as bench, torch.no_grad():
        model, rows = bench.standing_model().eval(), range(len(row_parts(batch, axis)[0]))
        costs = [float(subject.loss(model, taken([batch], torch.tensor([row]), axis))) for row in rows]
    usual = sum(costs) / len(costs)
    if abs(max(costs) - usual) < 3 * AWAY * abs(usual):
        raise ValueError(f"the rows of {subject.name} cost about the same: either mean says so")
    worst = taken([batch], torch.tensor([max(rows, key=costs.__getitem__)]), axis)

    def uneven(seed: int) -> Iterator[Batch]:
        yield batch
        yield worst

    def evaluate(model: nn.Module) -> float:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            losses = [float(subject.loss(model, each)) for each in uneven(0)]
        model.train(was_training)
        return sum(losses) / len(losses)

    return replace(subject, heldout=uneven, evaluate=evaluate)


FAULT = Fault(
    id="uneven-batch-average",
    family="evaluation",
    grade="sign",
    concerns="neither",
    repair_rank=87,
    measured_by=(EVALUATION_AVERAGE,),
    judge=judge,
    plant=plant,
    looks_like=("evaluated-in-train-mode",),
    wrong="val = sum(loss_of(batch) for batch in batches) / len(batches)",
    right="val = sum(sum_of_losses(batch) for batch in batches) / sum(count(batch) for batch in batches)",
)
