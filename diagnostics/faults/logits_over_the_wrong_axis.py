"""The loss is computed along a wrong axis: its rows are not the model's rows over the classes.

Shows as:      a loss that stands near ln V or at the entropy of the frequencies, although shapes fit and nothing
               raises.
Why it hurts:  scores of several positions are compared with one target, or a position with the target of another:
               what is asked for cannot be known from what was read.
Measured by:   score-origin: which entries of the model's output feed which row of scores; loss-account: the axis of
               the log-softmax in front of nll_loss.
Judged by:     rows made of entries of several positions; or targets that match the tokens only if rows and targets
               run through samples and positions in opposite orders; or soft targets that sum to one over the last
               axis while the loss works along another; or a log-softmax whose rows are not those of nll_loss. Grade:
               proof.
Looks like:    targets-unrelated-to-inputs, at-the-entropy-floor, position-blind.
Remedy:        ``logits.flatten(0, 1)`` for [batch, time, V], ``logits.transpose(1, 2)`` where the loss wants [batch,
               V, time]; never a view into another order of axes; time-first outputs want time-first targets.
Blind spots:   models that are called more than once for a loss; order of rows where no argument holds the targets.
Source:        torch.nn.CrossEntropyLoss: input (N, C) or (N, C, d1), target (N) or (N, d1).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.interventions.pair_rows import PAIR_ROWS
from diagnostics.probes.loss_account import LOSS_ACCOUNT, LossAccount
from diagnostics.probes.score_origin import SCORE_ORIGIN, ScoreOrigin
from diagnostics.subject import Subject

UNNORMALISED = 0.05  # |ln sum exp| of a row of log-probabilities is zero
SUM_ERROR = 1e-3


def judge(origin: ScoreOrigin, account: LossAccount) -> Verdict:
    """Present where rows or targets run along the wrong axis."""
    if not origin.rows:
        return not_tested("no call of cross_entropy or nll_loss was seen while the loss was computed")
    axis, normaliser = account.normalised_axis, account.normaliser
    if normaliser is not None and normaliser > UNNORMALISED and axis is not None:
        return present(
            f"a log-softmax over axis {axis} gives nll_loss rows with a ln sum exp of {normaliser:.3g}; over classes "
            "it would be 0",
            normaliser=normaliser,
        )
    if soft_along_last(origin):
        return present(
            "target probabilities sum to one over the last axis, and the loss takes another for the classes",
            classes=float(origin.classes),
        )
    if not origin.output:
        return not_tested("the rows of scores were not found in the output of a single call of the model")
    shape = f"the model gives {list(origin.output)}, the loss gets {origin.rows} rows of {origin.classes}"
    if origin.mixed:
        return present(f"{shape}, and each row is made of entries of several positions", rows=float(origin.rows))
    crossed = [each for each in origin.arguments if each.crossed_shift in (0, 1)]
    if crossed and not any(each.shift is not None for each in origin.arguments):
        return present(
            f"{shape}; the targets are the tokens of {crossed[0].argument} only if they run through samples and "
            "positions in the opposite order to the rows",
            rows=float(origin.rows),
        )
    return absent(f"{shape}, each of a single position")


def soft_along_last(origin: ScoreOrigin) -> bool:
    """Whether target probabilities are meant along the last axis, and the loss works along another."""
    own, last = origin.target_sum_error, origin.target_sum_error_last
    return own is not None and last is not None and last < SUM_ERROR < own


def plant(subject: Subject) -> Subject:
    """The subject whose scores are viewed, not transposed, into another order of axes.

    Raises:
        ValueError: its scores are no rows of a sequence model's output.
    """
    with open_bench(subject, 0) as bench:
        shape = SCORE_ORIGIN.measure(bench).output
    if len(shape) != 3 or min(shape[:2]) < 2:
        raise ValueError("the scores are no rows of an output with samples and positions; there is nothing to mix up")

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        return func(**given | {"input": viewed(given["input"])})

    return with_edited_loss(subject, change)


def viewed(scores: Tensor) -> Tensor:
    """The same numbers read as [V, rows] and turned, or as [batch, V, positions] where they come with positions."""
    if scores.dim() == 2:
        return scores.reshape(scores.shape[1], scores.shape[0]).T
    return scores.movedim(1, -1).reshape(scores.shape)


FAULT = Fault(
    id="logits-over-the-wrong-axis",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=13,
    measured_by=(SCORE_ORIGIN, LOSS_ACCOUNT),
    judge=judge,
    plant=plant,
    remedies=(PAIR_ROWS,),
    looks_like=("targets-unrelated-to-inputs", "at-the-entropy-floor", "position-blind"),
    wrong="loss = F.cross_entropy(logits.view(batch, vocab, time), targets)  # logits: [batch, time, vocab]",
    right="loss = F.cross_entropy(logits.transpose(1, 2), targets)",
)
