"""The learning rate is so low that the weights hardly move.

Shows as:      a loss that stays at its first value; the same curve at ten times the rate.
Why it hurts:  with a relative update of 1e-5 a weight needs a hundred thousand steps to become another one.
Measured by:   rate-scan: the relative size of the first step, and the end of the same steps at other rates;
               loss-inputs, because a double softmax hides all of it.
Judged by:     a first update below TINY (at the first rate of the schedule that is not zero), a fall that the rate
               hardly causes (less than IDLE of the first loss more than at a tenth), and ten times the rate no worse.
               Grade: sign. A rate that is merely somewhat low does not count.
Looks like:    parameters-not-in-the-optimizer, saturated-output, needs-more-steps.
Remedy:        ten times the rate, again until the curve becomes unstable; then a third of that.
Blind spots:   rates that decay to zero later; a warm-up longer than the scan that starts from zero.
Source:        Stanford CS231n, notes on training (updates of about 1e-3 of the weights).
               TINY: ours, a tenth of that; not calibrated with plain SGD. IDLE: ours.
"""

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.faults.learning_rate_too_high import MARGIN, hidden_by
from diagnostics.interventions.change_rate import change_rate
from diagnostics.interventions.usual_rate import USUAL_RATE
from diagnostics.probes.loss_inputs import LOSS_INPUTS, LossInputs
from diagnostics.probes.rate_scan import RATE_SCAN, RateScan

TINY = 1e-4
IDLE = 0.01
PLANTED = 1e-4


def judge(scan: RateScan, inputs: LossInputs) -> Verdict:
    """Present where steps are tiny and nothing would be lost by larger ones."""
    now, tenth, tenfold = scan.at(1.0), scan.at(0.1), scan.at(10.0)
    update = now.first_update / (scan.moving_factor or 1.0)
    numbers = {"first update": update, "start": scan.start, "end": now.end, "end at ten times": tenfold.end}
    told = (
        f"the first step changes a matrix by {update:.2g} of its size; {len(now.losses)} steps bring {scan.start:.3f} "
        f"nats to {now.end:.3f}, at ten times the rate to {tenfold.end:.3f}"
    )
    hidden = hidden_by(scan, inputs)
    if hidden is not None:
        return unclear(f"{told}. {hidden}", **numbers)
    if update >= TINY:
        return absent(told, **numbers)
    if scan.moving_factor == 0:
        return unclear(f"{told}; the schedule keeps the rate at zero meanwhile", **numbers)
    idle = tenth.end - now.end < IDLE * abs(scan.start)
    stable = tenfold.finite and tenfold.end < now.end + MARGIN
    return present(told, **numbers) if idle and stable else absent(f"{told}: it moves all the same", **numbers)


FAULT = Fault(
    id="learning-rate-too-low",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=71,
    measured_by=(RATE_SCAN, LOSS_INPUTS),
    judge=judge,
    plant=change_rate(PLANTED).apply,
    remedies=(USUAL_RATE,),
    looks_like=("parameters-not-in-the-optimizer", "saturated-output", "needs-more-steps"),
    follows_from=(
        "clipping-too-tight",
        "adam-epsilon-too-large",
        "learning-rate-decays-to-zero",
        "gradients-zeroed-before-the-step",
        "learning-rate-zero",
        "optimizer-holds-old-parameters",
        "step-never-called",
    ),
    wrong="optimizer = torch.optim.AdamW(model.parameters(), lr=1e-7)",
    right="optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)",
)
