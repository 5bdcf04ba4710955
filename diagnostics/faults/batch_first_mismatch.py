"""An attention or a recurrence runs along the samples of the batch instead of along the positions.

Shows as:      a loss that depends on the batch's composition and rests where a model without context would; other
               results for a batch of one.
Why it hurts:  torch's nn.Transformer, nn.MultiheadAttention and nn.GRU expect [time, batch, features] unless they are
               built with batch_first=True. Given [batch, time, features] they let each position read the same position
               of the other samples, and no other position of its own.
Measured by:   batch-axis: replace one sample, watch in which axis of its input a module sees the change.
Judged by:     a module whose input changes in a single place of the axis that it takes for time. Grade: proof.
Looks like:    batch-coupling, position-blind.
Remedy:        batch_first=True, or transpose before and after.
Blind spots:   attention and recurrences written by hand (see batch-coupling); layers behind one that has mixed the
               samples already cannot be told.
Source:        the documentation of torch.nn.Transformer and torch.nn.RNN (batch_first is False by default).
"""

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import rebuilt
from diagnostics.interventions.turn_batch_first import TURN_BATCH_FIRST, turned
from diagnostics.probes.batch_axis import BATCH_AXIS, BatchAxis, batch_axis
from diagnostics.subject import Subject


def judge(axis: BatchAxis) -> Verdict:
    """Present where a module of torch takes samples for positions."""
    if not axis.sequential:
        return not_tested("no attention or recurrence of torch's own was called with a batch")
    numbers = {
        "sequential modules": float(len(axis.sequential)),
        "along samples": float(len(axis.over_samples)),
        "movement of others": axis.by_others,
    }
    if axis.over_samples:
        others = f"moves the outputs of the others by up to {axis.by_others:.2g} standard deviations"
        return present(
            f"{axis.over_samples[0]} takes the {axis.samples} samples for positions: batch_first does not fit what it "
            f"is given. Replacing one sample {others if axis.by_others else 'moves no other output'}, and positions do "
            "not see each other there",
            **numbers,
        )
    return absent(f"{len(axis.sequential)} attentions and recurrences run along the positions", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose attentions and recurrences of torch's own take the other axis for the positions.

    Raises:
        ValueError: it has none, or their masks do not fit the other axis.
    """
    with open_bench(subject, 0) as bench:
        names = batch_axis(bench).sequential
    if not names:
        raise ValueError(f"{subject.name} calls no attention or recurrence of torch's own; there is nothing to turn")
    planted = rebuilt(subject, lambda model: turned(model, names))
    try:
        with open_bench(planted, 0) as bench:
            bench.loss()
    except Exception as error:  # masks of positions do not fit an axis of samples
        raise ValueError(f"the masks of {subject.name} do not fit the other axis: {error}") from error
    return planted


FAULT = Fault(
    id="batch-first-mismatch",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=29,
    measured_by=(BATCH_AXIS,),
    judge=judge,
    plant=plant,
    remedies=(TURN_BATCH_FIRST,),
    looks_like=("batch-coupling", "position-blind"),
    wrong="self.gru = nn.GRU(d_model, d_model)                    # expects [time, batch, features]\n"
    "hidden, _ = self.gru(x)                                # x: [batch, time, features]",
    right="self.gru = nn.GRU(d_model, d_model, batch_first=True)\nhidden, _ = self.gru(x)",
)
