"""The token vectors are added to a sum that already holds them: x + dropout(x + positions).

Shows as:      tokens twice as large as meant, positions half as visible; dropout on the embedding without effect.
Why it hurts:  positions have half their weight next to the tokens, and the larger stream adds to embedding-scale.
Measured by:   stream-scale: how often each entry of a token vector is in the stream, dropout off and on.
Judged by:     dropout never takes an entry away, but leaves exactly half of it: a multiple of x bypasses dropout.
               Grade: sign. Without dropout a factor of two is just a factor, and the verdict is unclear.
Looks like:    embedding-scale.
Remedy:        a module that adds positions returns the sum; its caller does not add it to x again.
Blind spots:   setups without dropout on the embedding; positions given to the attention instead of the stream.
Source:        Vaswani et al. 2017, sections 3.5 and 5.4. NEAR: ours; the factors are exact up to rounding.
"""

import math

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.add_positions_once import ADD_POSITIONS_ONCE, add_positions_twice
from diagnostics.probes.stream_scale import STREAM_SCALE, StreamScale

NEAR = 0.01
NO_POSITIONS = 1e-3  # of the tokens' RMS: what rounding leaves where nothing is added


def judge(scale: StreamScale) -> Verdict:
    """Present where half of the token vectors goes around the dropout that the other half goes through."""
    if scale.token_gain is None or scale.training_gains is None or scale.width is None:
        return not_tested("the stream is no multiple of token vectors plus something else")
    assert scale.token_rms is not None
    assert scale.position_rms is not None
    if scale.position_rms < NO_POSITIONS * scale.token_rms:
        return absent("nothing is added to the token vectors before they enter the first layer")
    low, high = scale.training_gains
    numbers = {"factor": scale.token_gain, "lowest with dropout": low, "highest with dropout": high}
    if high - low < NEAR * high:
        return without_dropout(scale.token_gain, scale.width, numbers)
    factor = f"the stream holds {scale.token_gain:.3g} times the token vectors"
    told = f"{factor}; dropout leaves between {low:.3g} and {high:.3g}"
    if low < NEAR * high:
        return absent(f"{told}: all of it goes through dropout", **numbers)
    if abs(2 * low - scale.token_gain) < NEAR * scale.token_gain:
        return present(f"{told}: one of two equal copies goes around it", **numbers)
    return unclear(f"{told}: something goes around it, but no second copy", **numbers)


def without_dropout(factor: float, width: int, numbers: dict[str, float]) -> Verdict:
    """The verdict where dropout shows nothing: a factor of two may be meant."""
    if any(abs(factor - 2 * scale) < NEAR * factor for scale in (1.0, math.sqrt(width))):
        return unclear(
            f"the stream holds {factor:.3g} times the token vectors, twice the usual factor, but no dropout tells "
            "two copies from one",
            **numbers,
        )
    return absent(f"the stream holds {factor:.3g} times the token vectors: no factor of two", **numbers)


FAULT = Fault(
    id="positions-added-twice",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=43,
    measured_by=(STREAM_SCALE,),
    judge=judge,
    plant=add_positions_twice,
    remedies=(ADD_POSITIONS_ONCE,),
    looks_like=("embedding-scale",),
    wrong="x = x + self.positional_encoding(x)   # which returns dropout(x + positions)",
    right="x = self.positional_encoding(x)",
)
