"""The logits cannot leave a narrow interval, so the loss cannot get low.

Shows as:      a loss that comes to rest at a value of its own, above zero even on one batch, while predictions are
               right.
Why it hurts:  a softmax over numbers between a and b gives the right class at most 1 / (1 + (V - 1) e^(a - b)); the
               loss has the floor ln(1 + (V - 1) e^(a - b)).
Measured by:   logit-range: the scores that the loss gets where the head's result is multiplied by 1, 1e3 and 1e6.
Judged by:     scores that stay in the same interval at 1e3 and 1e6, whose ends no parameter moves, and a floor above
               HARMFUL. Grade: proof. A soft cap at 30 has a floor of about 1e-21 and is harmless; rows that sum to
               one are softmax-before-cross-entropy.
Looks like:    softmax-before-cross-entropy, label-smoothing-too-strong, at-the-entropy-floor.
Remedy:        give cross_entropy the last linear layer's result; sigmoid and tanh belong to other losses.
Blind spots:   logits that are normalised (cosine similarities without a scale); heads without a weight of their own.
Source:        torch.nn.CrossEntropyLoss: unnormalized logits. HARMFUL: ours, nats; caps in use (Gemma 2: 30) leave
               below 1e-6.
"""

import math

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.squeeze_logits import squeezed
from diagnostics.interventions.unbound_logits import UNBOUND_LOGITS
from diagnostics.probes.logit_range import LOGIT_RANGE, LogitRange
from diagnostics.subject import Subject

HARMFUL = 0.05
SAME = 0.02  # relative change of the width from one gain to the next
FLAT = 1e-3  # slope of the interval's ends at the largest gain
DISTRIBUTION = 1e-3


def judge(logits: LogitRange) -> Verdict:
    """Present where the scores stay in an interval that is too narrow for their number."""
    if logits.missing is not None:
        return not_tested(logits.missing)
    first, louder, loudest = logits.ranges
    widths = [each.largest - each.smallest for each in (louder, loudest)]
    said = f"with the head a million times louder scores lie between {loudest.smallest:.4g} and {loudest.largest:.4g}"
    if first.smallest >= 0 and first.sum_error < DISTRIBUTION:
        return absent("the scores are probabilities, which is a fault of its own")
    moves = not all(map(math.isfinite, widths)) or abs(widths[1] - widths[0]) > SAME * widths[0]
    if moves or loudest.slope > FLAT:
        return absent(f"{said}: nothing holds them there")
    floor = math.log1p((logits.classes - 1) * math.exp(-widths[1]))
    numbers = {"smallest": loudest.smallest, "largest": loudest.largest, "floor": floor}
    if floor < HARMFUL:
        return absent(f"{said}; with {logits.classes} classes the loss can get as low as {floor:.2g}", **numbers)
    return present(f"{said}; with {logits.classes} classes the loss is never below {floor:.4f}", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with a sigmoid between its model and its cross-entropy."""
    return squeezed(lambda scores: scores.sigmoid())(subject)


FAULT = Fault(
    id="bounded-logits",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=10,
    measured_by=(LOGIT_RANGE,),
    judge=judge,
    plant=plant,
    remedies=(UNBOUND_LOGITS,),
    looks_like=("softmax-before-cross-entropy", "label-smoothing-too-strong", "at-the-entropy-floor"),
    wrong="loss = F.cross_entropy(torch.sigmoid(head(stream)), targets)",
    right="loss = F.cross_entropy(head(stream), targets)",
)
