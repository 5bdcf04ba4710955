"""Choose the learning rate whose first step changes the weights as much as is usual."""

from dataclasses import replace
from statistics import median

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.interventions.change_rate import change_rate
from diagnostics.probes.rate_scan import matrices, relative_updates
from diagnostics.subject import Subject

USUAL_UPDATE = (
    5e-3  # of the size of a matrix; with Adam at 1e-3 our healthy subjects give 7e-3 to 5e-2; the careful side of that
)


def first_update(subject: Subject) -> float:
    """Median over matrices of ||step|| / ||weights|| at the first step, at the rate that the schedule starts from.

    Raises:
        ValueError: the first step changes nothing.
    """
    with open_bench(replace(subject, schedule=None), 0) as bench:
        before = [p.detach().clone() for p in matrices(bench.model)]
        bench.train(bench.one_batch(), 1)
        updates = relative_updates(before, bench.model)
    if not updates or median(updates) == 0:
        raise ValueError(f"the first step changes no matrix of {subject.name}; no learning rate can mend that")
    return median(updates)


def usual_rate(subject: Subject) -> Subject:
    """The subject with the learning rate whose first step changes its matrices by USUAL_UPDATE of their size."""
    return change_rate(USUAL_UPDATE / first_update(subject)).apply(subject)


USUAL_RATE = Intervention(
    name="usual-rate",
    does=f"choose the learning rate whose first step changes the matrices by {USUAL_UPDATE:.1%}",
    apply=usual_rate,
)
