"""Positions are many times larger than the token vectors that they are added to.

Shows as:      a loss that rests near the token frequencies for hundreds of steps; all tokens at a place look alike.
Why it hurts:  attention and norms see the sum. Next to positions of size one a token vector of size 0.02 is noise, and
               it must grow to be read at all.
Measured by:   position-sizes: root mean squares of both where they are added.
Judged by:     positions more than SWAMPED times as large as the token vectors. Grade: sign. Sines (0.7) beside
               vectors of N(0, 1/d_model) times sqrt(d_model), or 0.02 beside 0.02, are healthy.
Looks like:    embedding-scale, position-blind.
Remedy:        multiply the token vectors by sqrt(d_model), or draw the positions as small as the tokens.
Blind spots:   positions that are joined by concatenation or given to the attention.
Source:        Vaswani et al. 2017, section 3.4. SWAMPED: ours; the factor is 4 with Xavier's initialisation at a
               vocabulary of 37,000, and 35 with N(0, 0.02) beside sines.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.shrink_positions import SHRINK_POSITIONS, positions_times
from diagnostics.probes.position_sizes import POSITION_SIZES, PositionSizes
from diagnostics.subject import Subject

SWAMPED = 12.0
PLANTED = 50.0  # N(0, 1) beside 0.02


def judge(sizes: PositionSizes) -> Verdict:
    """Present where positions are an order of magnitude larger."""
    if not sizes.sums:
        return not_tested("nothing that differs from place to place is added to token vectors")
    tokens, positions = max(sizes.sums, key=lambda pair: pair[1] / max(pair[0], 1e-30))
    ratio = positions / max(tokens, 1e-30)
    told = f"positions with a root mean square of {positions:.3g} are added to token vectors with {tokens:.3g}"
    if ratio > SWAMPED:
        return present(f"{told}: {ratio:.3g} times as large", ratio=ratio)
    return absent(f"{told}: {ratio:.3g} times as large", ratio=ratio)


def plant(subject: Subject) -> Subject:
    """The subject whose positions are fifty times as large as its token vectors.

    Raises:
        ValueError: nothing is added to token vectors.
    """
    return positions_times(subject, PLANTED)


FAULT = Fault(
    id="positions-swamp-the-tokens",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=51,
    measured_by=(POSITION_SIZES,),
    judge=judge,
    plant=plant,
    remedies=(SHRINK_POSITIONS,),
    looks_like=("embedding-scale", "position-blind"),
    wrong="nn.init.normal_(table.weight, std=0.02)\nx = table(ids) + torch.randn(time, d_model)",
    right="nn.init.normal_(table.weight, std=0.02)\nx = table(ids) + 0.02 * torch.randn(time, d_model)",
)
