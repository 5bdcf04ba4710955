"""Token vectors enter the stack far larger than the numbers that it adds to them.

Shows as:      a first loss far above ln V; a loss that falls slowly, or stands where a softmax is saturated.
Why it hurts:  each layer of a pre-norm stack adds numbers of size one or less to the stream. Next to token vectors
               of size sqrt(d_model) they, and the positions, change nothing; without a final norm, or with a tied
               head, the logits become so large that the softmax is one-hot.
Measured by:   stream-scale: the RMS of that part of the stream which grows with the embedding.
Judged by:     an RMS above LARGE. Grade: sign. Small vectors are normal (GPT-2 starts at 0.02), but drowned by
               positions more than SWAMPED times their size they leave the question open.
Looks like:    no-final-norm, positions-added-twice, learning-rate-too-high.
Remedy:        multiply by sqrt(d_model) only where the table is drawn from N(0, 1/d_model); or leave N(0, 1) alone.
Blind spots:   models that embed by a product with one-hot vectors; embeddings whose output is normalised at once.
Source:        Vaswani et al. 2017, section 3.4. LARGE: ours, between the sum of three N(0, 1) vectors (1.7) and N(0, 1)
               times the root of the smallest width that we test (4.0). SWAMPED: ours; 4 is common and healthy
               (Xavier initialisation at V = 37,000).
"""

import math

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.scale_embedding import scale_at_entry, scale_embedding
from diagnostics.interventions.unit_embedding import UNIT_EMBEDDING
from diagnostics.probes.stream_scale import STREAM_SCALE, StreamScale
from diagnostics.subject import Subject

LARGE = 3.0
SWAMPED = 10.0


def judge(scale: StreamScale) -> Verdict:
    """Present where tokens enter with an RMS far above one."""
    if scale.token_rms is None or scale.position_rms is None or scale.width is None:
        return not_tested("no embedded tokens were seen on their way into the model")
    numbers = {"token RMS": scale.token_rms, "position RMS": scale.position_rms}
    sizes = f"tokens enter the stack with an RMS of {scale.token_rms:.3g}"
    if scale.position_rms > 0.01 * scale.token_rms:
        sizes += f", positions with {scale.position_rms:.3g}"
    if scale.token_rms > LARGE:
        return present(f"{sizes}; about 1 is usual, and sqrt({scale.width}) is {math.sqrt(scale.width):.3g}", **numbers)
    if scale.position_rms > SWAMPED * scale.token_rms:
        return unclear(f"{sizes}: the positions may drown the tokens until the table has grown", **numbers)
    return absent(f"{sizes}; {LARGE:.3g} would be large", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose tokens enter with an RMS of sqrt(d_model), as N(0, 1) times sqrt(d_model) does."""
    scale = scale_at_entry(subject)
    assert scale.width is not None
    assert scale.token_rms is not None
    return scale_embedding(math.sqrt(scale.width) / scale.token_rms).apply(subject)


FAULT = Fault(
    id="embedding-scale",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=42,
    measured_by=(STREAM_SCALE,),
    judge=judge,
    plant=plant,
    remedies=(UNIT_EMBEDDING,),
    looks_like=("no-final-norm", "positions-added-twice", "learning-rate-too-high"),
    wrong="table = nn.Embedding(vocab, d_model)          # N(0, 1)\nx = table(ids) * math.sqrt(d_model)",
    right="nn.init.normal_(table.weight, std=d_model**-0.5)\nx = table(ids) * math.sqrt(d_model)",
)
