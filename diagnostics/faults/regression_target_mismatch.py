"""Every prediction is compared with every target, because their shapes broadcast.

Shows as:      a loss that comes to rest at the variance of the targets, and predictions that are all the same.
Why it hurts:  [N, 1] and [N] broadcast to all N x N pairs; what is best then is the mean of the targets, for every
               input.
Measured by:   regression-pairs: the shapes that meet in mse_loss and its kin, or in a difference outside the model.
Judged by:     as many predictions as targets, in shapes that broadcast to more pairs than there are targets. Grade:
               proof.
Looks like:    needs-more-steps, learning-rate-too-low.
Remedy:        ``prediction.squeeze(-1)``, or ``target.unsqueeze(-1)``.
Blind spots:   other losses written out by hand than with a difference.
Source:        torch, F.mse_loss: "Using a target size that is different to the input size ... will likely lead to
               incorrect results due to broadcasting".
"""

import torch

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.match_shapes import MATCH_SHAPES, CrossedShapes
from diagnostics.probes.regression_pairs import REGRESSION_PAIRS, RegressionPairs
from diagnostics.subject import Subject


def judge(pairs: RegressionPairs) -> Verdict:
    """Present where more pairs are compared than there are targets."""
    if pairs.function is None:
        return not_tested("no mse_loss or its kin was seen while the loss was computed")
    targets = 1
    for size in pairs.wanted:
        targets *= size
    said = f"{pairs.function} compares predictions {list(pairs.given)} with targets {list(pairs.wanted)}"
    numbers = {"targets": float(targets), "pairs": float(pairs.compared)}
    given = 1
    for size in pairs.given:
        given *= size
    if given != targets or pairs.compared <= targets:
        return absent(said, **numbers)
    return present(f"{said}: {pairs.compared} pairs of {targets} targets", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose predictions are a column and whose targets are a row.

    Raises:
        ValueError: its loss compares no numbers.
    """
    with open_bench(subject, 0) as bench, torch.enable_grad():
        if REGRESSION_PAIRS.measure(bench).function is None:
            raise ValueError(f"the loss of {subject.name} calls no mse_loss or its kin")
    return surrounded(subject, lambda model, batch: CrossedShapes())


FAULT = Fault(
    id="regression-target-mismatch",
    family="data",
    grade="proof",
    concerns="fit",
    repair_rank=13,
    measured_by=(REGRESSION_PAIRS,),
    judge=judge,
    plant=plant,
    remedies=(MATCH_SHAPES,),
    looks_like=("needs-more-steps", "learning-rate-too-low"),
    wrong="loss = F.mse_loss(model(x), y)  # [N, 1] against [N]",
    right="loss = F.mse_loss(model(x).squeeze(-1), y)",
)
