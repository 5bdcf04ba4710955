"""With what learning rate the optimizer takes its first step."""

from dataclasses import dataclass

from diagnostics.bench import Bench
from diagnostics.probe import Probe


@dataclass(frozen=True, kw_only=True)
class FirstRate:
    """The optimizer as the subject makes it.

    Args:
        rate: the largest learning rate of its groups.
        first_factor: the schedule's factor at the first step; 1 without a schedule.
        adaptive: whether it divides by running averages of squared gradients.
    """

    rate: float
    first_factor: float
    adaptive: bool


def first_rate(bench: Bench) -> FirstRate:
    """Read off the optimizer and the schedule; nothing is run."""
    groups = bench.subject.optimizer(bench.model).param_groups
    schedule = bench.subject.schedule
    return FirstRate(
        rate=max(float(group["lr"]) for group in groups),
        first_factor=1.0 if schedule is None else float(schedule(0)),
        adaptive=any("betas" in group or "alpha" in group for group in groups),
    )


FIRST_RATE = Probe(
    name="first-rate",
    question="With what learning rate does the optimizer take its first step?",
    measure=first_rate,
)
