"""Can this setup learn one batch by heart? The check that a person runs first, over several seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from diagnostics.bench import open_bench
from diagnostics.probes.one_batch import learn_one_batch
from diagnostics.subject import Subject
from diagnostics.workers import run_all

LEARNED_WITHIN = 0.05
"""Nats above the lowest loss possible: the line that the overfitting check draws."""

FALLING = 0.9
"""Last loss over the loss halfway: below it, more steps may be all that is missing. Ours."""

Verdict = Literal["learned", "learned, but not as generation uses it", "not learned yet", "not learned"]


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """One fresh model, trained on one batch again and again.

    Args:
        seed: of the weights and of the batch.
        curve: training loss per optimizer step, dropout and all, nats per target.
        evaluated: loss on the batch after training, in evaluation mode, nats per target.
        lowest_possible: what no model can beat that sees only what stands before, nats per target.
        generating: loss of each row's last token, asked for in the way the model generates, nats; None where it
            does not generate.
        generating_lowest: the same bound for those tokens.
    """

    seed: int
    curve: tuple[float, ...]
    evaluated: float
    lowest_possible: float
    generating: float | None
    generating_lowest: float

    @property
    def is_learned(self) -> bool:
        """Whether the batch is known by heart when the model is called as in training."""
        return self.evaluated < self.lowest_possible + LEARNED_WITHIN

    @property
    def is_still_falling(self) -> bool:
        """Whether the loss fell by a tenth in the second half of the steps."""
        return self.curve[-1] < FALLING * self.curve[len(self.curve) // 2]

    @property
    def is_known_when_writing(self) -> bool:
        """Whether it is known when the model is used as in generation too."""
        return self.generating is None or self.generating < self.generating_lowest + LEARNED_WITHIN


def overfit(subject: Subject, *, seed: int, steps: int) -> Overfit:
    """Train a fresh model on its first batch and ask it for that batch.

    Args:
        subject: with a `build`; otherwise each seed would start from the same weights.
        seed: of weights, batch and dropout.
        steps: most optimizer steps; fewer once the loss is below 0.01 nats, or nothing moves any more.
    """
    with open_bench(subject, seed) as bench:
        curve, found = learn_one_batch(bench, steps)
    return Overfit(
        seed=seed,
        curve=tuple(curve),
        evaluated=found.evaluated,
        lowest_possible=found.lowest_possible,
        generating=found.generating,
        generating_lowest=found.generating_lowest_possible,
    )


def overfit_all(
    subject: Subject, *, seeds: int, steps: int, workers: int, on_done: Callable[[int], None]
) -> list[Overfit]:
    """`overfit` for the seeds 0, 1, ... side by side."""
    tasks = [partial(overfit, subject, seed=seed, steps=steps) for seed in range(seeds)]
    return run_all(tasks, workers=workers, on_done=on_done)


def verdict(runs: Sequence[Overfit]) -> Verdict:
    """What all seeds agree on."""
    if not all(run.is_learned for run in runs):
        falls = all(run.is_learned or run.is_still_falling for run in runs)
        return "not learned yet" if falls else "not learned"
    if not all(run.is_known_when_writing for run in runs):
        return "learned, but not as generation uses it"
    return "learned"
