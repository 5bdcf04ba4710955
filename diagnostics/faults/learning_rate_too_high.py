"""The learning rate is so high that a tenth of it does better from the first steps on.

Shows as:      a loss that jumps up at once, rests near the unigram entropy, or becomes infinite.
Why it hurts:  every step overshoots; the weights grow until norms and softmaxes saturate, and stay there.
Measured by:   rate-scan: the first steps at a tenth, once and ten times the rate, from the same weights on the same
               batches; loss-inputs, because a double softmax hides all of it.
Judged by:     a tenth ends lower by more than MARGIN and NOISE deviations, or the run itself ends above its start by
               as much, or is not finite. Grade: sign.
Looks like:    no-warm-up, saturated-output, embedding-scale.
Remedy:        a tenth; warm-up; then a short scan around it.
Blind spots:   rates that only hurt later, in deeper models, or at the end of training; a tenth must win at once.
Source:        Smith 2017, "Cyclical Learning Rates", section 3.3 (range test). MARGIN and NOISE: ours; at healthy rates
               a tenth loses by 0.5 to 1.4 nats within the scan on the five healthy subjects.
"""

import math

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.change_rate import change_rate
from diagnostics.probes.loss_inputs import LOSS_INPUTS, LossInputs
from diagnostics.probes.rate_scan import RATE_SCAN, RateScan

MARGIN = 0.25  # nats
NOISE = 1.0
PLANTED = 100.0
SUM_ERROR = 1e-3


def judge(scan: RateScan, inputs: LossInputs) -> Verdict:
    """Present where a tenth of the rate is clearly better, or the rate explodes."""
    now, tenth = scan.at(1.0), scan.at(0.1)
    numbers = {"start": scan.start, "end": now.end, "end at a tenth": tenth.end, "first update": now.first_update}
    told = (
        f"{len(now.losses)} steps bring {scan.start:.3f} nats to {now.end:.3f}, at a tenth of the rate to "
        f"{tenth.end:.3f}; the first step changes a matrix by {now.first_update:.2g} of its size"
    )
    hidden = hidden_by(scan, inputs)
    if hidden is not None:
        return unclear(f"{told}. {hidden}", **numbers)
    margin = MARGIN + NOISE * math.hypot(now.spread, tenth.spread)
    explodes = not now.finite or now.end > scan.start + margin
    if explodes or now.end > tenth.end + margin:
        return present(told + (": it explodes" if explodes else ""), **numbers, margin=margin)
    return absent(told, **numbers, margin=margin)


def hidden_by(scan: RateScan, inputs: LossInputs) -> str | None:
    """What keeps the scan from saying anything about the rate; None where nothing does."""
    if inputs.function == "cross_entropy" and inputs.smallest >= 0 and inputs.sum_error < SUM_ERROR:
        return "The loss is given probabilities (softmax-before-cross-entropy): no rate can show what it does"
    if scan.at(1.0).first_update == 0 and scan.moving_factor != 0:
        return "The first step changes nothing at all: no gradient, or nothing in the optimizer"
    return None


FAULT = Fault(
    id="learning-rate-too-high",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=70,
    measured_by=(RATE_SCAN, LOSS_INPUTS),
    judge=judge,
    plant=change_rate(PLANTED).apply,
    remedies=(change_rate(0.1), change_rate(0.01)),
    looks_like=("no-warm-up", "saturated-output", "embedding-scale"),
    follows_from=(
        "momentum-out-of-range",
        "accumulation-not-normalised",
        "gradient-of-the-wrong-sign",
        "gradients-not-zeroed",
        "scaler-misused",
    ),
    wrong="optimizer = torch.optim.AdamW(model.parameters(), lr=1e-1)",
    right="optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)",
)
