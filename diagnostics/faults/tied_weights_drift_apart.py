"""The head is a copy of the embedding table where it was meant to be the table itself.

Shows as:      nothing at first; as many more parameters as the table has, and a head and table that part.
Why it hurts:  copying numbers ties nothing: from the first step on each goes its own way, and rare tokens learn in only
               one of the two.
Measured by:   twin-weights: head and table of a fresh model, and their difference after a few steps.
Judged by:     two tensors with the same random numbers that differ by more than ROUNDING afterwards. Grade: proof:
               equal random numbers are no coincidence.
Looks like:    untied-head.
Remedy:        head.weight = embedding.weight: the parameter, not its data.
Blind spots:   copies that are scaled or transposed by hand; a model that is loaded and no longer fresh.
Source:        Press & Wolf 2017, "Using the Output Embedding". ROUNDING: ours.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.tie_weights import TIE_WEIGHTS
from diagnostics.interventions.untie_weights import untie_weights
from diagnostics.probes.twin_weights import STEPS, TWIN_WEIGHTS, TwinWeights

ROUNDING = 1e-6


def judge(twins: TwinWeights) -> Verdict:
    """Present where equal numbers in two tensors part."""
    if twins.shared is None:
        return not_tested("no table has the shape of the last matrix")
    if twins.shared:
        return absent("the head multiplies with the embedding table itself")
    if not twins.equal:
        return absent("head and embedding have different numbers from the start")
    if twins.drift is None or twins.drift <= ROUNDING:
        return unclear(f"head and embedding are two tensors with the same numbers, and {STEPS} steps leave them equal")
    return present(
        f"head and embedding start with the same numbers in two tensors; after {STEPS} steps they differ by up to "
        f"{twins.drift:.2g} of their root mean square: a copy, not a share",
        drift=twins.drift,
    )


FAULT = Fault(
    id="tied-weights-drift-apart",
    family="model",
    grade="proof",
    concerns="neither",
    repair_rank=60,
    measured_by=(TWIN_WEIGHTS,),
    judge=judge,
    plant=untie_weights,
    remedies=(TIE_WEIGHTS,),
    looks_like=("untied-head",),
    wrong="self.head.weight.data = self.embedding.weight.data.clone()",
    right="self.head.weight = self.embedding.weight",
)
