"""Gradients of several micro-batches are added up and never divided by their number.

Shows as:      the loss of a rate that is several times too high, and worse the more micro-batches there are.
Why it hurts:  k backward passes on mean losses leave k times the mean gradient: plain SGD takes a step k times too
               long, and a clipping norm that suited one batch cuts everything.
Measured by:   step-bookkeeping: backward passes before a step, and their sum beside the gradient of the subject's own
               loss on the same data.
Judged by:     k >= 2 passes whose sum is LOW to HIGH times k as long as that gradient, and along it. Grade: proof.
               Where the loss is itself a sum, the two agree, and nothing is missing.
Looks like:    learning-rate-too-high, gradients-not-zeroed.
Remedy:        (loss / k).backward().
Blind spots:   Adam without clipping hardly minds; loops that the subject does not bring along as its step.
Source:        PyTorch documentation, "Automatic Mixed Precision examples", gradient accumulation. LOW, HIGH, ALONG:
               ours; dropout and uneven micro-batches move the factor by some tenths.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.usual_step import USUAL_STEP
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.subject import Batch, Subject

LOW, HIGH = 0.7, 1.4  # of the number of passes
ALONG = 0.5
SMALLEST = 1.6  # times the mean gradient
PARTS = 4


def judge(steps: StepBookkeeping) -> Verdict:
    """Present where several passes add up to several times the gradient."""
    passes, factor, along = steps.backwards, steps.summed_scale, steps.summed_along
    numbers = {"passes": float(passes), "sum over mean": factor or 0.0}
    if passes < 2 or steps.closures:
        return absent(f"{passes} backward passes before a step: nothing is gathered", **numbers)
    if factor is None or along is None or not steps.optimizer_steps:
        return unclear("no optimizer step follows a gradient of the loss", **numbers)
    told = f"{passes} backward passes before a step leave {factor:.2f} times the gradient of the loss on the same data"
    if max(SMALLEST, LOW * passes) <= factor <= HIGH * passes and along > ALONG:
        return present(f"{told}: they are summed, not averaged; divide each loss by {passes}", **numbers)
    return absent(told, **numbers)


def parts(batch: Batch, count: int) -> Iterator[Any]:
    """The batch in ``count`` pieces along its first axis; tensors, tuples, lists and dicts of them."""
    if isinstance(batch, Tensor):
        if len(batch) < count:
            raise ValueError(f"the batch has {len(batch)} rows, too few for {count} micro-batches")
        yield from batch.tensor_split(count)
    elif isinstance(batch, tuple | list):
        for pieces in zip(*(parts(each, count) for each in batch), strict=True):
            yield tuple(pieces) if isinstance(batch, tuple) else list(pieces)
    elif isinstance(batch, dict):
        for pieces in zip(*(parts(each, count) for each in batch.values()), strict=True):
            yield dict(zip(batch, pieces, strict=True))
    else:
        raise ValueError(f"a batch of {type(batch).__name__} cannot be split into micro-batches")


def plant(subject: Subject) -> Subject:
    """The subject with a loop that sums the gradients of PARTS micro-batches.

    Raises:
        ValueError: its batches cannot be split, or its loss is a sum.
    """
    with open_bench(subject, 0) as bench:
        tuple(parts(bench.batch(0), PARTS))

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        total = 0.0
        loss = subject.loss(model, batch).detach()
        for part in parts(batch, PARTS):
            loss = subject.loss(model, part)
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        return loss.detach() * 0 + total / PARTS

    return replace(subject, step=step)


FAULT = Fault(
    id="accumulation-not-normalised",
    family="optimization",
    grade="proof",
    concerns="fit",
    repair_rank=66,
    measured_by=(STEP_BOOKKEEPING,),
    judge=judge,
    plant=plant,
    remedies=(USUAL_STEP,),
    looks_like=("learning-rate-too-high", "gradients-not-zeroed"),
    wrong="for part in parts:\n    loss(model, part).backward()\noptimizer.step()",
    right="for part in parts:\n    (loss(model, part) / len(parts)).backward()\noptimizer.step()",
)
