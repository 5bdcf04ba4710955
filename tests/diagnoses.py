"""Diagnoses made by hand, for whatever speaks about them: a stuck run, a healthy one, one that nobody can explain."""

import math
from dataclasses import dataclass, replace

from diagnostics.diagnosis import Cause, Diagnosis, Milestone, PathStep, Role, Run
from diagnostics.fault import Finding, Verdict, absent, not_tested, present, unclear
from diagnostics.faults import CATALOGUE
from diagnostics.levels import ReferenceLevel, double_softmax_ceiling, double_softmax_floor, uniform
from diagnostics.probe import Reading
from diagnostics.trial import Outcome, Regime, Trial

VOCAB, STANDING = 8063, 8.9952
SEEDS = (0, 1, 2)
FAULTS = {fault.id: fault for fault in CATALOGUE}
SOFTMAX, PIN, LEAK, NORM = (
    "softmax-before-cross-entropy", "no-final-norm", "future-token-leak", "norm-over-the-wrong-axis"
)  # fmt: skip
DEVIATION, SONG, RULED_OUT, UNCLEAR, UNTESTED = (
    "no-output-projection", "whole-sentences-as-tokens", "batch-coupling", "position-blind", "history-keeps-the-graph"
)  # fmt: skip
BASE = frozenset((SOFTMAX, PIN, LEAK, NORM))
TRIED = BASE | {DEVIATION}
ONE_BATCH, HONEST = "loss of one batch (nats per token)", "honest held-out loss (nats per token)"


@dataclass(frozen=True)
class Measured:
    """A measurement with one fact of each kind that probes return."""

    function: str = "cross_entropy"
    rows: int = 7
    smallest: float = -1.25
    missing: float | None = None
    many: tuple[float, ...] = (2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0)
    few: tuple[str, ...] = ("<a>", "b|c")
    depth: tuple[tuple[str, float], ...] = (("embedding", 2.0), ("layer <1>", 3.0), ("head", 0.0))


LOSS_INPUTS = Reading(probe="loss-inputs", seed=0, seconds=0.25, measurement=Measured())
MISSING = Reading(probe="graph-retention", seed=0, seconds=0.0, reason="this subject has no history")


def levels() -> tuple[ReferenceLevel, ...]:
    """Of a vocabulary so large that ln V and the double-softmax ceiling lie 2e-4 apart."""
    frequencies = ReferenceLevel(name="unigram", nats=7.21, means="only frequencies are learned")
    return (uniform(VOCAB), frequencies, double_softmax_floor(VOCAB), double_softmax_ceiling(VOCAB))


def finding(name: str, verdict: Verdict, reading: Reading = LOSS_INPUTS, *, revealed: bool = False) -> Finding:
    """A verdict on a fault of the catalogue."""
    return Finding(fault=FAULTS[name], verdict=verdict, readings=(reading,), revealed=revealed)


def cause(
    name: str,
    role: Role,
    before: tuple[float, ...],
    after: tuple[float, ...],
    quantity: str = HONEST,
    *,
    rest: str = "all else repaired",
    reference: float = 0.0,
    only_with: tuple[str, ...] = (),
    sham: tuple[float, ...] = (),
    share: float | None = None,
) -> Cause:
    """A cause with one trial."""
    question = f"repair {name}, {rest}"
    trial = Trial(
        question=question, quantity=quantity, seeds=SEEDS, before=before, after=after, reference=reference, sham=sham
    )
    evidence = finding(name, present(f"evidence of {name} with a number of 0.375"), revealed=role == "hidden behind")
    return Cause(finding=evidence, role=role, because=question, trials=(trial,), only_with=only_with, share=share)


def runs() -> tuple[Run, ...]:
    """Nothing, each alone, every fault, all but one (or a deviation too); in both regimes, over all seeds."""
    plans = [frozenset[str](), *(frozenset([each]) for each in sorted(TRIED)), BASE]
    plans += [BASE ^ {each} for each in sorted(TRIED)]
    return tuple(
        Run(repaired=repaired, outcome=outcome(repaired, regime, seed))
        for repaired in plans
        for regime in ("one batch", "fresh batches")
        for seed in SEEDS
    )


def outcome(repaired: frozenset[str], regime: Regime, seed: int) -> Outcome:
    """8.75 for a run that gives its loss probabilities, half of that for one that does not; 1/8 more for each seed."""
    final = (4.375 if SOFTMAX in repaired else 8.75) + seed / 8
    curve = tuple(final + 2.0 ** (2 - step) for step in range(5 + seed))
    return Outcome(regime=regime, seed=seed, curve=curve, final=final, honest=final + 1)


def milestone(value: float, bound: float = 0.05, *, required: bool = True) -> Milestone:
    """A claim about one batch with nearly the same value for each seed."""
    values = tuple(value * (1 + seed / 8) for seed in SEEDS)
    return Milestone(
        claim="one batch is learned", values=values, bound=bound, unit="nats per token", bound_is="the line",
        required=required,
    )  # fmt: skip


def path() -> tuple[PathStep, ...]:
    """The first repair makes the honest loss worse, the second one brings something to light, the last was not run."""
    return (
        PathStep(repaired=None, one_batch=8.98, honest=2.5),
        PathStep(repaired=SOFTMAX, one_batch=0.03, honest=12.5),
        PathStep(repaired=LEAK, one_batch=0.04, honest=7.0, reveals=(DEVIATION,)),
        PathStep(repaired=NORM, one_batch=0.02, honest=2.0),
        PathStep(repaired=PIN, one_batch=0.01, honest=None),
    )


def stuck() -> Diagnosis:
    """A stuck run: one cause that holds the loss up, one that pins it, two redundant ones behind, and the rest."""
    causes = (
        cause(
            SOFTMAX, "holds the loss up", (8.99, 8.98, 8.97), (0.02, 0.03, 0.04), ONE_BATCH,
            rest="nothing else repaired", sham=(8.99, 8.98, 8.96), share=0.875,
        ),
        cause(
            PIN, "pins the loss", (8.99, 8.98, 8.97), (8.0, 8.1, 8.2), ONE_BATCH, rest="nothing else repaired",
            reference=7.9953, share=0.125,
        ),
        cause(LEAK, "hidden behind", (6.9, 7.0, 7.1), (5.4, 5.5, 5.6), only_with=(NORM,)),
        cause(NORM, "hidden behind", (6.5, 6.6, 6.7), (5.4, 5.5, 5.6), only_with=(LEAK,)),
        Cause(
            finding=finding(SONG, present("41 of 8063 types hold four words, the longest '<the> lantern|line\\n'")),
            role="not confirmed",
            because="no trial: nothing can remove it",
        ),
    )  # fmt: skip
    deviations = (cause(DEVIATION, "no effect here", (5.5, 5.6, 5.7), (5.5, 5.5, 5.8)),)
    others = (
        finding(RULED_OUT, absent("other samples move by 0.0 of 6.6")),
        finding(UNCLEAR, unclear("a movement of 0.01 against 0.02")),
        finding(UNTESTED, not_tested("this subject has no history"), MISSING),
    )
    return Diagnosis(
        subject="<b>stuck</b>",
        standing=STANDING,
        history=tuple(STANDING + 0.0001 * (step % 3 - 1) for step in range(31)),
        levels=levels(),
        readings=(LOSS_INPUTS, MISSING),
        findings=(*(each.finding for each in (*causes, *deviations)), *others),
        causes=causes,
        deviations=deviations,
        explanations=(),
        repair_order=(SOFTMAX, LEAK, NORM, PIN),
        milestones=(milestone(0.01), milestone(8.5, 8.39, required=False)),
        runs=runs(),
        base=BASE,
        seeds=SEEDS,
        seconds=61.0,
        path=path(),
        left_out=("fresh batches with nothing repaired", f"one batch with {LEAK} and {NORM} repaired"),
    )


def healthy() -> Diagnosis:
    """No fault, everything reached, at a loss that would be the ceiling of another kind of run."""
    findings = (finding(SOFTMAX, absent("rows sum to 8.22")), finding(RULED_OUT, absent("others move by 0")))
    return replace(
        stuck(), subject="small", findings=findings, causes=(), deviations=(), repair_order=(), runs=(),
        base=frozenset(), path=(), left_out=(),
        milestones=(
            milestone(0.01),
        ),
    )  # fmt: skip


def unexplained() -> Diagnosis:
    """No fault, and yet a milestone is missed; one fault unclear, one not tested, one reason that is no fault."""
    reason = finding("needs-more-steps", present("the loss still falls by 0.03 per 100 steps"))
    findings = (*stuck().findings[-3:], reason)
    return replace(
        healthy(),
        subject="odd",
        standing=3.25,
        findings=findings,
        explanations=(reason,),
        milestones=(milestone(0.75),),
    )


def bare() -> Diagnosis:
    """As little as a diagnosis can hold: nothing was read, tried or kept, and the loss is not a number."""
    return Diagnosis(
        subject="bare", standing=math.nan, history=(), levels=(), readings=(), findings=(), causes=(), deviations=(),
        explanations=(), repair_order=(), milestones=(), runs=(), base=frozenset(), seeds=(0,), seconds=0.0,
    )  # fmt: skip
