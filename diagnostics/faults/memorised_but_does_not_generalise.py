"""The model knows its training data by heart, and new data no better than before.

Shows as:      a training loss that falls on and on, and a validation loss that stands, or rises again.
Why it hurts:  it is no fault of the code: there is more model, or more time, than data.
Measured by:   generalisation-gap: the loss of the model as it stands on training and on held-out batches, in eval mode.
Judged by:     a held-out loss of one and a half times the training loss and more, far beyond the spread over batches.
               Grade: explanation.
Looks like:    train-and-validation-from-different-distributions, duplicate-data.
Remedy:        more data, a smaller vocabulary or model, dropout and weight decay, and the weights of the step at which
               the held-out loss was lowest.
Blind spots:   a held-out part of another kind has a gap as well; losses that can be below zero.
Source:        Zhang et al. 2017, "Understanding deep learning requires rethinking generalization". TIMES: ours.
"""

from dataclasses import replace
from itertools import repeat

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.generalisation_gap import GENERALISATION_GAP, GeneralisationGap
from diagnostics.subject import Subject

TIMES = 1.5
ERRORS = 3.0
LEARNED = 0.7  # of a fresh model's training loss: above this, next to nothing was learned
STEPS = 150


def judge(gap: GeneralisationGap) -> Verdict:
    """Present where training data are known far better."""
    numbers = {"training loss": gap.train, "held-out loss": gap.heldout, "error": gap.error}
    seen = (
        f"the model as it stands has a loss of {gap.train:.4g} on training batches and of {gap.heldout:.4g} on "
        f"held-out ones (error of the difference {gap.error:.2g}); a fresh one has {gap.fresh:.4g}"
    )
    if min(gap.train, gap.heldout) < 0:
        return unclear(f"{seen}; losses below zero have no ratio", **numbers)
    apart = gap.heldout >= TIMES * gap.train and gap.heldout - gap.train >= ERRORS * gap.error
    return (present if apart and gap.train <= LEARNED * gap.fresh else absent)(seen, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with one batch as all of its data, and a model that has learned it by heart.

    Raises:
        ValueError: it holds nothing out, or does not learn its first batch in a few steps.
    """
    if subject.heldout is None:
        raise ValueError(f"{subject.name} holds nothing out")
    with open_bench(subject, 0) as bench:
        before = bench.train(bench.one_batch(), STEPS)
        batch, model = bench.batch(0), bench.model
    if before[-1] > before[0] / (2 * TIMES):
        raise ValueError(f"{subject.name} does not learn one batch by heart in {STEPS} steps")
    return replace(subject, model=model, batches=lambda seed: repeat(batch, 1), whole_data=False)


FAULT = Fault(
    id="memorised-but-does-not-generalise",
    family="data",
    grade="explanation",
    concerns="neither",
    repair_rank=97,
    measured_by=(GENERALISATION_GAP,),
    judge=judge,
    plant=plant,
    looks_like=("train-and-validation-from-different-distributions", "duplicate-data"),
    wrong="steps = 100_000  # 200 passes over 500 kB, with 50 million parameters",
    right="steps = best_step  # where the held-out loss was lowest",
)
