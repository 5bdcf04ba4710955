"""Predictions cannot reach the targets: an activation at the end keeps them in a range that misses some.

Shows as:      a loss that comes to rest above zero even on one batch, with predictions piled up at the end of their
               range.
Why it hurts:  what lies outside cannot be fitted, and an activation that is at its end passes no gradient.
Measured by:   regression-pairs: the range of the predictions where the head is made a million times louder, in either
               direction, and the share of the targets outside.
Judged by:     a range that no longer grows, and at least SHARE of the targets outside of it. Grade: proof.
Looks like:    bounded-logits, saturated-output, needs-more-steps.
Remedy:        no activation after the last linear layer, or targets scaled into its range.
Blind spots:   heads without a weight of their own; targets that are outside in other batches only.
Source:        Bishop 2006, section 5.2: the identity for regression. SHARE: ours; outliers happen.
"""

import math

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.free_predictions import FREE_PREDICTIONS, Squeezed
from diagnostics.probes.regression_pairs import REGRESSION_PAIRS, RegressionPairs
from diagnostics.subject import Subject

SHARE = 0.05


def judge(pairs: RegressionPairs) -> Verdict:
    """Present where a good share of the targets cannot be reached."""
    if pairs.function is None:
        return not_tested("no mse_loss or its kin was seen while the loss was computed")
    if pairs.lowest is None or pairs.highest is None:
        return not_tested("no product with a weight was seen; no head is known")
    targets = f"targets lie between {pairs.smallest_target:.4g} and {pairs.largest_target:.4g}"
    reach = f"predictions between {pairs.lowest:.4g} and {pairs.highest:.4g}"
    numbers = {"share of targets outside": pairs.missed}
    if math.isinf(pairs.lowest) and math.isinf(pairs.highest):
        return absent(f"{targets}, and nothing holds predictions anywhere", **numbers)
    if pairs.missed < SHARE:
        return absent(f"{targets}, {reach}: {pairs.missed:.1%} are out of reach", **numbers)
    return present(f"{targets}, {reach} however loud the head is: {pairs.missed:.0%} are out of reach", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a ReLU on its predictions.

    Raises:
        ValueError: its loss compares no numbers, or none of its targets is negative.
    """
    with open_bench(subject, 0) as bench:
        pairs = REGRESSION_PAIRS.measure(bench)
    if pairs.function is None:
        raise ValueError(f"the loss of {subject.name} calls no mse_loss or its kin")
    if pairs.smallest_target >= 0:
        raise ValueError(f"none of the targets of {subject.name} is negative; a ReLU keeps nothing out of reach")
    return surrounded(subject, lambda model, batch: Squeezed())


FAULT = Fault(
    id="output-range-misses-the-targets",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=14,
    measured_by=(REGRESSION_PAIRS,),
    judge=judge,
    plant=plant,
    remedies=(FREE_PREDICTIONS,),
    looks_like=("bounded-logits", "saturated-output", "needs-more-steps"),
    wrong="model = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 1), nn.ReLU())  # targets from -1 to 1",
    right="model = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 1))",
)
