"""The logits are cut off below: none of them can be negative.

Shows as:      a loss that starts near ln V and falls slowly or stops, with many classes at exactly the same score.
Why it hurts:  a class whose score is cut to zero gets no gradient, so the head's rows for it stop learning; and no
               class can be ruled out other than by raising all the others.
Measured by:   logit-range: the scores that the loss gets, and how many of the head's own numbers are negative.
Judged by:     no score below -SHALLOW however loud the head is made, while scores grow without end upwards and at
               least SOME of the head's own numbers are negative. Grade: sign.
Looks like:    bounded-logits, saturated-output.
Remedy:        no activation after the last linear layer.
Blind spots:   heads without a weight of their own.
Source:        Glorot et al. 2011: a rectifier is for hidden units. SHALLOW: ours, below the minimum of GELU (-0.17),
               SiLU (-0.28) and ELU (-1). SOME: ours.
"""

import math

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.squeeze_logits import squeezed
from diagnostics.interventions.unbound_logits import UNBOUND_LOGITS
from diagnostics.probes.logit_range import LOGIT_RANGE, LogitRange
from diagnostics.subject import Subject

SHALLOW = 1.5
SOME = 0.1
LOUD = 1e3


def judge(logits: LogitRange) -> Verdict:
    """Present where scores are cut off below and free above."""
    if logits.missing is not None:
        return not_tested(logits.missing)
    first, _, loudest = logits.ranges
    numbers = {"smallest": first.smallest, "share of zeros": first.zeros, "negative before": logits.negative}
    said = f"{logits.negative:.0%} of the head's numbers are negative, and the loss gets {first.smallest:.3g} or more"
    cut = first.smallest >= -SHALLOW and loudest.smallest >= -SHALLOW
    free = loudest.largest > LOUD or math.isinf(loudest.largest)
    if not (cut and free and logits.negative >= SOME):
        return absent(said, **numbers)
    return present(f"{said}, however loud the head is; {first.zeros:.0%} of the scores are exactly zero", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a ReLU between its model and its cross-entropy."""
    return squeezed(lambda scores: scores.relu())(subject)


FAULT = Fault(
    id="relu-on-the-logits",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=10,
    measured_by=(LOGIT_RANGE,),
    judge=judge,
    plant=plant,
    remedies=(UNBOUND_LOGITS,),
    looks_like=("bounded-logits", "saturated-output"),
    wrong="logits = F.relu(head(stream))",
    right="logits = head(stream)",
)
