"""Positions are counted along the samples of the batch instead of along the sequence.

Shows as:      a loss like that of a model without positions; outputs that depend on a sample's place in its batch.
Why it hurts:  every sample gets another vector and all its tokens the same one: the model is blind to order, and learns
               to undo a shift that depends on nothing but chance.
Measured by:   batch-axis: the same samples in the reverse order, and one sample replaced.
Judged by:     outputs that move with a sample's place in the batch, although no sample moves another. Grade: proof.
Looks like:    position-blind, batch-coupling.
Remedy:        index the positions with the axis of time: positions[: x.size(1)] for [batch, time, features].
Blind spots:   batches of fewer than three samples; models whose calls differ by chance or keep a state.
Source:        ours: a mean over samples does not depend on their order. Rounding: 1e-9 in double and 1e-4 in single
               precision.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.turn_positions import TURN_POSITIONS, turned_positions
from diagnostics.probes.batch_axis import BATCH_AXIS, BatchAxis
from diagnostics.subject import Subject


def judge(axis: BatchAxis) -> Verdict:
    """Present where the place in the batch matters and the other samples do not."""
    numbers = {"movement by place": axis.by_place, "movement by others": axis.by_others}
    if not axis.rounding:
        return not_tested("no output of the model has an axis of samples")
    if axis.by_nothing > axis.rounding:
        return unclear(f"the same call made twice moves the outputs by {axis.by_nothing:.2g} standard deviations")
    if axis.by_place <= axis.rounding:
        return absent(f"the order of the {axis.samples} samples moves no output", **numbers)
    if axis.by_others > axis.rounding:
        return unclear(
            f"the order of the samples moves outputs by {axis.by_place:.2g} standard deviations, but so does "
            f"replacing another sample ({axis.by_others:.2g}): the samples are coupled",
            **numbers,
        )
    return present(
        f"the same {axis.samples} samples in the reverse order give outputs that differ by up to {axis.by_place:.2g} "
        "standard deviations, although no sample moves another: something is counted along the batch",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject whose positions are added along the axis of the samples.

    Raises:
        ValueError: no positions were seen being added to token vectors.
    """
    return turned_positions(subject)


FAULT = Fault(
    id="positions-on-the-batch-axis",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=49,
    measured_by=(BATCH_AXIS,),
    judge=judge,
    plant=plant,
    remedies=(TURN_POSITIONS,),
    follows_from=("parameters-not-registered", "forward-without-gradient"),
    looks_like=("position-blind", "batch-coupling"),
    wrong="x = x + positions[: x.size(0)].unsqueeze(1)   # x: [batch, time, features]",
    right="x = x + positions[: x.size(1)]                # x: [batch, time, features]",
)
