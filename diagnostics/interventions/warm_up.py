"""Let the learning rate rise linearly over the first steps."""

from dataclasses import replace

from diagnostics.intervention import Intervention
from diagnostics.subject import Subject

WARM_UP_STEPS = 100  # as many as the short trials can pay for; the paper's 4000 are for 100,000 steps


def warm_up(steps: int) -> Intervention:
    """A linear rise of the learning rate over the first ``steps`` steps, on top of the subject's own schedule.

    Raises:
        ValueError: steps is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps ({steps}) must be at least 1; leave the intervention out for no warm-up")

    def apply(subject: Subject) -> Subject:
        own = subject.schedule
        return replace(
            subject, schedule=lambda step: min(1.0, (step + 1) / steps) * (1.0 if own is None else own(step))
        )

    return Intervention(name="warm-up", does=f"raise the learning rate linearly over {steps} steps", apply=apply)
