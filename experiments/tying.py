"""Does sharing the embedding with the pre-softmax matrix pay? A trial over paired seeds on honest held-out loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from diagnostics.subject import Subject
from diagnostics.trial import Outcome, Trial, train_once
from diagnostics.workers import run_all
from experiments.config import RunConfig, override
from experiments.subject import subject_of

Tied = Literal["tied is better", "untied is better", "no difference beyond the noise"]


@dataclass(frozen=True, kw_only=True)
class Tying:
    """What weight tying does to a run.

    Args:
        trial: before: untied; after: tied. A positive effect is a lower loss by tying.
        untied_curves / tied_curves: training loss per optimizer step, nats per token, one curve per seed.
        untied_parameters / tied_parameters: trainable numbers of the model.
        steps: optimizer steps of each run.
        switched_by_defect: the stuck run's switch is its defect "untied head", not the setting of the model.
    """

    trial: Trial
    untied_curves: tuple[tuple[float, ...], ...]
    tied_curves: tuple[tuple[float, ...], ...]
    untied_parameters: int
    tied_parameters: int
    steps: int
    switched_by_defect: bool = False

    @property
    def verdict(self) -> Tied:
        """Which side is better by more than the paired error and than what a seed alone does."""
        if self.trial.counts:
            return "tied is better"
        return "untied is better" if self.trial.harms else "no difference beyond the noise"


def tying(
    config: RunConfig,
    *,
    seeds: int,
    steps: int,
    workers: int,
    on_done: Callable[[int], None] = lambda done: None,
) -> Tying:
    """Train the run tied and untied from the same seeds, and compare the honest held-out losses.

    The honest loss predicts the last token of each held-out window from those before it, in the way the model
    generates; in bits per byte where the text behind the tokens is known.

    Args:
        config: everything but the tying; its schedule is fitted to `steps`.
        seeds: 0, 1, ... are used; at least 2, or there is no error to compare with.
        steps: optimizer steps of each run.
        workers: runs side by side.
        on_done: is called with the number of finished runs.
    Raises:
        ValueError: fewer than two seeds, or a run that fails.
    """
    if seeds < 2:
        raise ValueError(f"seeds ({seeds}) must be at least 2; a single pair has no error to compare with")
    sides = [subject_of(with_tying(config, steps, tied=tied)) for tied in (False, True)]
    runs = [
        partial(train_once, side, regime="fresh batches", seed=seed, steps=steps)
        for side in sides
        for seed in range(seeds)
    ]
    outcomes = run_all(runs, workers=workers, on_done=on_done)
    untied, tied = outcomes[:seeds], outcomes[seeds:]
    return Tying(
        trial=trial_of(untied, tied),
        untied_curves=tuple(outcome.curve for outcome in untied),
        tied_curves=tuple(outcome.curve for outcome in tied),
        untied_parameters=parameters(sides[0]),
        tied_parameters=parameters(sides[1]),
        steps=steps,
        switched_by_defect=config.model.kind == "stuck",
    )


def with_tying(config: RunConfig, steps: int, *, tied: bool) -> RunConfig:
    """The run at this length, tied or not; the stuck run is switched by its own defect."""
    length = {"train.steps": steps, "train.epochs": None}
    switch = {"defects.untied_head": not tied} if config.model.kind == "stuck" else {"model.tie_weights": tied}
    return override(config, length | switch)


def trial_of(untied: list[Outcome], tied: list[Outcome]) -> Trial:
    """The paired comparison, in bits per byte where every run has them, otherwise in nats per token."""
    in_bits = all(outcome.bits_per_byte is not None for outcome in (*untied, *tied))
    return Trial(
        question="untied (before) against tied (after) weights",
        quantity=f"honest held-out loss ({'bits per byte' if in_bits else 'nats per token'})",
        seeds=tuple(outcome.seed for outcome in untied),
        before=tuple(held_out_loss(outcome, in_bits=in_bits) for outcome in untied),
        after=tuple(held_out_loss(outcome, in_bits=in_bits) for outcome in tied),
        reference=math.nan,
    )


def held_out_loss(outcome: Outcome, *, in_bits: bool) -> float:
    """The loss that is compared; raises ValueError for a run that has none, or that diverged."""
    loss = outcome.bits_per_byte if in_bits else outcome.honest
    if loss is None:
        raise ValueError(
            f"the run with seed {outcome.seed} has no held-out loss: {outcome.failure or 'not measurable'}"
        )
    if not math.isfinite(loss):
        raise ValueError(f"the run with seed {outcome.seed} diverged: its held-out loss is {loss}; lower optim.lr")
    return loss


def parameters(subject: Subject) -> int:
    """Trainable numbers of the model; a shared matrix counts once."""
    return sum(each.numel() for each in subject.model.parameters() if each.requires_grad)
