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
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.usual_step import USUAL_STEP
from diagnostics.probes.step_bookkeeping import STEP_BOOKKEEPING, StepBookkeeping
from diagnostics.rows import mapped, samples
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
    size = factor / along if along > ALONG else factor  # dropout turns both gradients, and leaves them their lengths
    told = f"{passes} backward passes before a step leave {size:.2f} times the gradient of the loss on the same data"
    if max(SMALLEST, LOW * passes) <= size <= HIGH * passes and along > ALONG:
        return present(f"{told}: they are summed, not averaged; divide each loss by {passes}", **numbers)
    return absent(told, **numbers)


def parts(subject: Subject, batch: Batch, count: int) -> Iterator[Any]:
    """The batch in ``count`` pieces of some samples each."""
    rows = samples(subject, batch)
    if rows < count:
        raise ValueError(f"the batch has {rows} rows, too few for {count} micro-batches")
    for chosen in torch.arange(rows).tensor_split(count):
        yield mapped(batch, partial(piece, chosen=chosen, rows=rows, batch_axis=subject.batch_axis))


def piece(values: Shaped[Tensor, "..."], *, chosen: Tensor, rows: int, batch_axis: int) -> Shaped[Tensor, "..."]:
    """These samples of a tensor that has as many as the batch; any other tensor whole."""
    axis = next((a for a in (batch_axis, 0) if values.dim() > a and values.shape[a] == rows), None)
    return values if axis is None else values.index_select(axis, chosen.to(values.device))


def plant(subject: Subject) -> Subject:
    """The subject with a loop that sums the gradients of PARTS micro-batches.

    Raises:
        ValueError: its batches cannot be split, or its loss is a sum.
    """
    with open_bench(subject, 0) as bench:
        tuple(parts(subject, bench.batch(0), PARTS))

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad()
        total = 0.0
        loss = subject.loss(model, batch).detach()
        for part in parts(subject, batch, PARTS):
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
