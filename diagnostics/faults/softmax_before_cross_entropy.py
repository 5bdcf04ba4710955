"""Probabilities are handed to a cross-entropy that expects logits.

Shows as:      a loss that rests between ln(V-1+e) - 1 and ln(V-1+e), near ln V, even on one batch.
Why it hurts:  the loss becomes ln(sum of e^p) - p_y with p in [0, 1]: at most one nat can be gained, and where the
               softmax is one-hot its gradient is exactly zero.
Measured by:   loss-inputs: the rows that the loss is called with.
Judged by:     no entry below zero and every row summing to one, in front of a function that applies log-softmax
               itself. Grade: proof. Log-probabilities are harmless: their log-softmax is themselves.
Looks like:    saturated-output, learning-rate-too-low, at-the-entropy-floor.
Remedy:        return logits from the model; apply softmax only where probabilities are looked at or sampled from.
Blind spots:   a cross-entropy written out by hand.
Source:        torch.nn.CrossEntropyLoss: "input is expected to contain unnormalized logits". SUM_ERROR: ours; rows of
               logits sum to one within 1e-3 by chance with probability below 1e-3 each, and all rows must.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch.nn.functional as F

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.undo_softmax import UNDO_SOFTMAX
from diagnostics.levels import double_softmax_ceiling, double_softmax_floor
from diagnostics.probes.loss_inputs import LOSS_INPUTS, LossInputs
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls, watched_loss

SUM_ERROR = 1e-3


def judge(inputs: LossInputs) -> Verdict:
    """Present where every row that cross_entropy gets is a distribution."""
    if inputs.function is None:
        return not_tested("no call of cross_entropy or nll_loss was seen while the loss was computed")
    numbers = {"smallest entry": inputs.smallest, "largest distance of a row sum from 1": inputs.sum_error}
    rows_are_distributions = inputs.smallest >= 0 and inputs.sum_error < SUM_ERROR
    if inputs.function != "cross_entropy" or not rows_are_distributions:
        return absent(
            f"{inputs.function} is given rows with a smallest entry of {inputs.smallest:.3g} whose sums are up to "
            f"{inputs.sum_error:.3g} away from 1: not probabilities",
            **numbers,
        )
    floor, ceiling = double_softmax_floor(inputs.classes).nats, double_softmax_ceiling(inputs.classes).nats
    return present(
        f"all {inputs.rows} rows given to cross_entropy are >= 0 and sum to 1 (within {inputs.sum_error:.1g}): "
        f"whatever the model learns, the loss stays between {floor:.4f} and {ceiling:.4f}",
        **numbers,
        floor=floor,
        ceiling=ceiling,
    )


class SoftmaxFirst(TorchCalls):
    """While active, cross_entropy gets the softmax of what it is given."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put a softmax over the classes in front of cross_entropy."""
        kwargs = dict(kwargs)
        if func is F.cross_entropy:
            scores = kwargs.pop("input", None)
            scores, rest = (args[0], args[1:]) if scores is None else (scores, args)
            return func(F.softmax(scores, dim=min(1, scores.dim() - 1)), *rest, **kwargs)
        return func(*args, **kwargs)


def plant(subject: Subject) -> Subject:
    """The subject with a softmax between its model and its cross-entropy.

    Raises:
        ValueError: its loss calls no cross-entropy.
    """
    with open_bench(subject, 0) as bench:
        if not watched_loss(subject, bench.model, bench.batch(0))[1].losses:
            raise ValueError("the loss of this subject calls no cross-entropy that a softmax could come before")
    return replace(surrounded(subject, lambda model, batch: SoftmaxFirst()), token_view=subject.token_view)


FAULT = Fault(
    id="softmax-before-cross-entropy",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=10,
    measured_by=(LOSS_INPUTS,),
    judge=judge,
    plant=plant,
    remedies=(UNDO_SOFTMAX,),
    looks_like=("saturated-output", "learning-rate-too-low", "at-the-entropy-floor"),
    wrong="probabilities = logits.softmax(-1)\nloss = F.cross_entropy(probabilities, targets)",
    right="loss = F.cross_entropy(logits, targets)",
)
