"""The model's outputs are one-hot, or its gradients exactly zero, although it is wrong.

Shows as:      a loss that does not move at all from some step on, to the last digit.
Why it hurts:  a softmax whose largest probability rounds to one has a derivative of exactly zero. Where the loss
               passes through it (see softmax-before-cross-entropy) no parameter gets a gradient any more.
Measured by:   output-saturation: the standing model's probabilities and gradients on one batch.
Judged by:     at least ZERO of the matrices with a gradient of exactly zero, or one-hot rows in at least ROWS of the
               targets, while at most LUCKY of the targets are predicted. Grade: proof: a model that is wrong and
               healthy has a gradient. Above RIGHT it is memory, between the two unclear.
Looks like:    learning-rate-too-high, softmax-before-cross-entropy, parameters-not-in-the-optimizer.
Remedy:        find what made the logits large: the scale of the embedding, a missing final norm, the learning rate.
               Then start again; a saturated model cannot be trained further.
Blind spots:   losses other than cross_entropy and nll_loss. The outside remedy makes a fresh model's logits small; it
               cannot wake a standing one.
Source:        Glorot & Bengio 2010, section 3 (saturation stops learning). ZERO and ROWS: ours; a sound model has
               none of either, the stuck run all. RIGHT and LUCKY: ours; a memorised batch is one-hot and right.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.scale_logits import scale_logits
from diagnostics.interventions.unit_logits import UNIT_LOGITS
from diagnostics.probes.output_saturation import OUTPUT_SATURATION, OutputSaturation, OutputState
from diagnostics.subject import Subject

ZERO = 0.8
ROWS = 0.5
RIGHT = 0.9
LUCKY = 0.6
LOUDER = 1e3  # the planted factor: logits of the order of hundreds whatever the initialisation


def judge(saturation: OutputSaturation) -> Verdict:
    """Present where the standing model is wrong and has no way to become right."""
    now = saturation.standing
    if now is None:
        return not_tested("no call of cross_entropy or nll_loss was seen while the loss was computed")
    numbers = {
        "share of matrices with zero gradient": now.zero_gradients,
        "share of one-hot rows": now.one_hot_rows,
        "median probability of the right class": now.median_p,
        "logit standard deviation": now.logit_std,
    }
    state = describe(now)
    if now.zero_gradients < ZERO and now.one_hot_rows < ROWS:
        return absent(state, **numbers)
    state += f"; {now.accuracy:.0%} of the predictions are right"
    if now.accuracy > RIGHT:
        return absent(f"{state}: learned by heart", **numbers)
    if now.accuracy > LUCKY:
        return unclear(f"{state}: overconfident, but not lost", **numbers)
    began = (
        "" if saturation.fresh is None else f"; a fresh model starts with {saturation.fresh.one_hot_rows:.0%} one-hot"
    )
    return present(f"{state}{began}", **numbers)


def describe(state: OutputState) -> str:
    """The state of a model's outputs as a clause."""
    rows = f"{state.one_hot_rows:.0%} of the rows are one-hot"
    if state.constant_rows:
        rows += " and all are the same"
    return (
        f"{state.zero_gradients:.0%} of the {state.matrices} matrices have a gradient of exactly zero, {rows}, the "
        f"median probability of the right class is {state.median_p:.2g} (logits deviate by {state.logit_std:.3g})"
    )


def plant(subject: Subject) -> Subject:
    """The subject with logits a thousand times too large."""
    return scale_logits(LOUDER).apply(subject)


FAULT = Fault(
    id="saturated-output",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=44,
    measured_by=(OUTPUT_SATURATION,),
    judge=judge,
    plant=plant,
    remedies=(UNIT_LOGITS,),
    follows_from=(
        "dead-relus",
        "graph-cut",
        "tied-head-scale",
        "initial-logits-too-large",
        "embedding-scale",
        "forward-without-gradient",
        "learning-rate-too-high",
        "loss-without-gradient",
        "no-final-norm",
        "positions-added-twice",
    ),
    looks_like=("learning-rate-too-high", "softmax-before-cross-entropy", "parameters-not-in-the-optimizer"),
    wrong="logits = self.head(stream)              # entries of size 30: the softmax is one-hot",
    right="logits = self.head(self.norm(stream))   # entries of size 1",
)
