"""Dropout takes so much away that the model cannot fit.

Shows as:      a training loss that stays high and noisy while the loss of the same batch in eval mode is far lower.
Why it hurts:  every layer of a transformer reads what several dropouts have left; at one half, twelve layers in
               a row leave noise. The rate also scales what is left by 1 / (1 - rate).
Measured by:   layer-activity: the rate of every dropout call in training mode.
Judged by:     a rate of at least HIGH in a model with attention, or of at least EXTREME anywhere. Grade: sign. One half
               in a perceptron or a recurrent net is customary and healthy.
Looks like:    learning-rate-too-low, needs-more-steps.
Remedy:        0.1, or none at all until one batch can be learned.
Blind spots:   dropout inside fused recurrent layers; layers dropped whole; masks drawn by hand.
Source:        Srivastava et al. 2014 (one half for hidden units of perceptrons); Vaswani et al. 2017, section 5.4 (0.1,
               0.3 at most). HIGH: the customary maximum elsewhere. EXTREME: ours.
"""

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.interventions.cap_dropout import CAP_DROPOUT, DropoutRate
from diagnostics.probes.layer_activity import LAYER_ACTIVITY, LayerActivity, layer_activity
from diagnostics.subject import Subject

HIGH = 0.5
EXTREME = 0.75
PLANTED = 0.8


def judge(activity: LayerActivity) -> Verdict:
    """Present where a dropout takes half or more in a transformer, or three quarters anywhere."""
    if not activity.dropout:
        return absent("no dropout is in force in training mode")
    rate, calls = activity.dropout[0]
    total = sum(count for _, count in activity.dropout)
    numbers = {"highest rate": rate, "calls at that rate": float(calls), "calls": float(total)}
    told = f"{calls} of {total} dropouts in training mode take away {rate:.0%} of their input"
    if rate >= EXTREME or (rate >= HIGH and activity.attention and calls > 1):
        return present(f"{told}; a transformer is trained with 10 %, 30 % at most", **numbers)
    if rate >= HIGH and activity.attention:
        return unclear(f"{told}: much for a transformer, but it is a single one", **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose every dropout takes 80 %.

    Raises:
        ValueError: it calls no dropout.
    """
    with open_bench(subject, 0) as bench:
        if not layer_activity(bench).dropout:
            raise ValueError(f"no dropout of {subject.name} is in force; there is no rate to raise")
    return surrounded(subject, lambda model, batch: DropoutRate(lambda rate: PLANTED))


FAULT = Fault(
    id="dropout-too-high",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=57,
    measured_by=(LAYER_ACTIVITY,),
    judge=judge,
    plant=plant,
    remedies=(CAP_DROPOUT,),
    looks_like=("learning-rate-too-low", "needs-more-steps"),
    wrong="x = x + F.dropout(self.attention(x), p=0.9, training=self.training)",
    right="x = x + F.dropout(self.attention(x), p=0.1, training=self.training)",
)
