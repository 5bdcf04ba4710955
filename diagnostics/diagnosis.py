"""What an examination came to: plain data that one can print, save and make by hand in a test."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diagnostics.fault import Finding
from diagnostics.levels import ReferenceLevel
from diagnostics.probe import Reading
from diagnostics.trial import Outcome, Regime, Trial

SCHEMA = 2  # of diagnosis.json; raised when a key changes its meaning or goes away

Role = Literal[
    "holds the loss up",
    "pins the loss",
    "holds the honest loss up",
    "hidden behind",
    "flatters the loss",
    "slows learning",
    "misleads the evaluation",
    "not confirmed",
    "no loss shows it",
    "follows from others",
    "no effect here",
]
ROLES: tuple[Role, ...] = get_args(Role)  # in the order in which a report tells them
CONFIRMED = ROLES[: ROLES.index("not confirmed")]


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A fault that is present, and what removing it did.

    Args:
        role: "holds the loss up": removing it makes one batch fit. "pins the loss": while another cause allows only a
            floor, this one keeps the loss above that floor. "holds the honest loss up": removing it alone lowers the
            held-out loss. "hidden behind": removing it pays once the others are removed. "flatters the loss": with it
            removed, the training loss no longer hides how bad predictions are without the answer. "slows learning":
            one batch is learned at least five times as far after the same steps with it removed. "misleads the
            evaluation": with it removed, the setup's own validation gives another loss. "not confirmed": present, and
            no trial could be made. "no loss shows it": a fault of bookkeeping or memory. "follows from others": a
            state that other present faults bring about. "no effect here": present, and removing it changes nothing
            that the trials can see.
        because: one sentence with the deciding numbers of the trial.
        trials: the deciding trial first.
        share: the part of the loss of one batch above its lowest that this cause takes away, averaged over the orders
            of repair that were run (all of them for up to two causes; otherwise as the first and as the last repair);
            None where it was not run.
        only_with: faults that must be repaired too before repairing this one gains anything (two redundant causes name
            each other); those that bring it about, if it follows from others.
    """

    finding: Finding
    role: Role
    because: str
    trials: tuple[Trial, ...] = ()
    only_with: tuple[str, ...] = ()
    share: float | None = None

    @property
    def id(self) -> str:
        """The fault's id."""
        return self.finding.fault.id

    @property
    def confirmed(self) -> bool:
        """Whether a trial confirmed it by removing it."""
        return self.role in CONFIRMED


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run of the examination: which faults were repaired in it, and what it came to."""

    repaired: frozenset[str]
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class PathStep:
    """One step on the way of repairs: what holds once everything up to here is repaired, mean over seeds.

    Args:
        repaired: the fault repaired in this step; None: the setup as it stands.
        one_batch: training loss of one batch at the end of the run, nats per token; None where it was not run.
        honest: held-out loss with nothing leaked, in ``honest_unit``; None where it was not run.
        reveals: faults that came to light only once this and everything before it was repaired.
    """

    repaired: str | None
    one_batch: float | None
    honest: float | None
    reveals: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Milestone:
    """A claim that is checked after the repairs: a quantity, and the line that it must get under.

    Args:
        claim: "one batch is learned, used as in generation", ...
        values: one per seed.
        bound: the line; the claim holds where every value is below it.
        unit: of values and bound.
        bound_is: what the line is, in words.
        required: False for a line that explains more than it demands.
    """

    claim: str
    values: tuple[float, ...]
    bound: float
    unit: str
    bound_is: str
    required: bool = True

    @property
    def reached(self) -> bool:
        """Whether it was measured, and every seed is below the line."""
        return bool(self.values) and all(math.isfinite(value) and value < self.bound for value in self.values)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Readings, findings and trials of one examination, ranked.

    Args:
        standing: where the loss stands, nats per token (per target for a classifier).
        levels: reference levels of this data.
        causes: faults of grade proof or sign that are present, the one to tell first comes first.
        deviations: departures from the recipe that are present, each with its trial.
        explanations: reasons that are no faults and that hold here.
        repair_order: ids of the confirmed causes in the order in which a person repairs them.
        path: what the losses do on the way, one step per repair, as it stands first.
        left_out: runs that were planned and not made for want of time.
        milestones: what holds after the repairs (for a healthy subject: as it stands).
        runs: every training run, for tables and pictures.
        base: ids of the faults that were repaired together and taken back one by one.
        seeds: of the trials.
        notes: how the subject came about, a sentence each.
    """

    subject: str
    standing: float
    history: tuple[float, ...]
    levels: tuple[ReferenceLevel, ...]
    readings: tuple[Reading, ...]
    findings: tuple[Finding, ...]
    causes: tuple[Cause, ...]
    deviations: tuple[Cause, ...]
    explanations: tuple[Finding, ...]
    repair_order: tuple[str, ...]
    milestones: tuple[Milestone, ...]
    runs: tuple[Run, ...]
    base: frozenset[str]
    seeds: tuple[int, ...]
    seconds: float
    path: tuple[PathStep, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> Literal["faulty", "healthy", "unexplained"]:
        """ "faulty": a fault is present. "healthy": none, and what a sound setup must reach is reached. "unexplained":
        none of the faults that we know, and yet a milestone was missed or could not be measured."""
        if self.causes:
            return "faulty"
        required = [milestone.reached for milestone in self.milestones if milestone.required]
        return "healthy" if required and all(required) else "unexplained"

    @property
    def confirmed(self) -> tuple[Cause, ...]:
        """The causes that a trial confirmed by removing them."""
        return tuple(cause for cause in self.causes if cause.confirmed)

    def verdicts(self, status: str) -> tuple[Finding, ...]:
        """Findings with this verdict status, in the order of their ids."""
        return tuple(finding for finding in self.findings if finding.verdict.status == status)

    def reading(self, probe: str) -> Reading | None:
        """The reading of a probe by name on the subject as it stands, if it was taken."""
        return next((r for r in self.readings if r.probe == probe and not r.repaired), None)

    def level(self, name: str) -> ReferenceLevel | None:
        """A reference level by name."""
        return next((level for level in self.levels if level.name == name), None)

    def outcomes(self, repaired: frozenset[str], regime: Regime) -> tuple[Outcome, ...]:
        """The runs with exactly these faults repaired, one per seed."""
        return tuple(run.outcome for run in self.runs if run.repaired == repaired and run.outcome.regime == regime)


DERIVED = {
    Trial: (
        "effect",
        "effect_error",
        "seed_spread",
        "share",
        "sham_effect",
        "counts",
        "harms",
        "beats_sham",
        "confirms",
    ),
    Cause: ("confirmed",),
    Milestone: ("reached",),
    Diagnosis: ("state",),
}
"""What a file says beside the fields of a class, so that a reader need not compute it: properties by name."""


def to_json(value: Any) -> Any:
    """Plain JSON values: dataclasses as objects, faults as their ids, sets sorted, NaN and infinity as None.

    The schema stands in docs/diagnosis-schema.md; `diagnostics.schema` makes it from these very classes.
    """
    if isinstance(value, Finding):
        fault, verdict = value.fault, value.verdict
        about = {"fault": fault.id, "title": fault.card.title, "grade": fault.grade, "family": fault.family}
        read_from = [{"probe": r.probe, "seed": r.seed, "repaired": to_json(r.repaired)} for r in value.readings]
        said = {"status": verdict.status, "because": verdict.because, "numbers": to_json(verdict.numbers)}
        return about | said | {"revealed": value.revealed, "readings": read_from}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        version = {"schema": SCHEMA} if isinstance(value, Diagnosis) else {}
        derived = {name: to_json(getattr(value, name)) for name in DERIVED.get(type(value), ())}
        return (
            version | derived | {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    return value
