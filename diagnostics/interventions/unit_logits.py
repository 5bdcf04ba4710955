"""Divide the logits by the standard deviation that a fresh model gives them."""

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.interventions.scale_logits import scale_logits
from diagnostics.probes.output_saturation import output_state
from diagnostics.subject import Subject


def unit_logits(subject: Subject) -> Subject:
    """The subject whose fresh model gives logits with a standard deviation of one."""
    with open_bench(subject, 0) as bench:
        state = output_state(bench, bench.model)
    if state is None or state.logit_std == 0:
        raise ValueError(f"{subject.name} gives no logits that differ; there is nothing to scale")
    return scale_logits(1 / state.logit_std).apply(subject)


UNIT_LOGITS = Intervention(
    name="unit-logits",
    does="divide the logits by the standard deviation that a fresh model gives them",
    apply=unit_logits,
)
