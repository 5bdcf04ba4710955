"""Counting: from the benchmark's records to shares with their 95 % intervals, and to the confusion matrix.

A record is one line of JSON: the case's words, and what its diagnosis said. All of this is pure.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagnostics.fault import ALARMING, Fault
from diagnostics.faults import CATALOGUE

Z = 1.96  # standard errors on both sides that hold 95 % of a normal distribution
FAULTS = {fault.id: fault for fault in CATALOGUE}


@dataclass(frozen=True, kw_only=True)
class Named:
    """A cause as the diagnosis told it."""

    id: str
    role: str
    confirmed: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """What one case came to.

    Args:
        key: the case in words.
        planted: ids of the faults that are in it; empty for a healthy one.
        causes: as told, the first one first.
        told: ids of deviations and explanations that were told beside them.
        seconds: of the examination.
        carried: False where the subject cannot carry the fault; ``error`` says why.
        error: what the case raised, in one line.
    """

    key: str
    kind: str
    subject: str
    planted: tuple[str, ...] = ()
    causes: tuple[Named, ...] = ()
    told: tuple[str, ...] = ()
    seconds: float = 0.0
    carried: bool = True
    error: str = ""

    @property
    def suspects(self) -> tuple[Named, ...]:
        """The causes that are no consequence of another one."""
        return tuple(cause for cause in self.causes if cause.role != "follows from others")

    @property
    def is_graded(self) -> bool:
        """Whether a planted fault is one that says "this is wrong": deviations and explanations are told apart."""
        return bool(self.planted) and all(FAULTS[each].grade in ALARMING for each in self.planted)

    def named_within(self, places: int) -> bool:
        """Whether the one planted fault is among the first causes; consequences take no place."""
        return self.planted[0] in [cause.id for cause in self.suspects[:places]]

    @property
    def is_first(self) -> bool:
        """The top-1 rule: the first of the causes is the planted fault."""
        return bool(self.causes) and self.causes[0].id == self.planted[0]

    @property
    def is_detected(self) -> bool:
        """Whether every planted fault is told at all, in whatever place."""
        return set(self.planted) <= {*(cause.id for cause in self.causes), *self.told}

    @property
    def first_is_confirmed(self) -> bool:
        """Whether the cause that is told first was confirmed by removing it."""
        return bool(self.causes) and self.causes[0].confirmed

    @property
    def wrong_but_confirmed(self) -> tuple[str, ...]:
        """Ids of confirmed causes that nobody planted."""
        return tuple(cause.id for cause in self.causes if cause.confirmed and cause.id not in self.planted)


def record_of(values: dict[str, Any]) -> Record:
    """The record of a line of JSON."""
    causes = tuple(Named(**each) for each in values["causes"])
    return Record(**values | {"causes": causes, "planted": tuple(values["planted"]), "told": tuple(values["told"])})


@dataclass(frozen=True, kw_only=True)
class Share:
    """So many of so many, with Wilson's 95 % interval.

    >>> share = Share(what="heads", hits=8, of=10)
    >>> [round(bound, 3) for bound in share.interval]
    [0.49, 0.943]
    """

    what: str
    hits: int
    of: int
    missed: tuple[str, ...] = field(default=())

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.hits / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; from 0 to 1 where nothing was counted. Source: Wilson 1927, JASA 22:209."""
        if not self.of:
            return 0.0, 1.0
        n, p = self.of, self.value
        middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)


def share(what: str, records: Iterable[Record], hit: Callable[[Record], bool]) -> Share:
    """How many of the records are hits, and the keys of those that are none."""
    records = list(records)
    missed = tuple(record.key for record in records if not hit(record))
    return Share(what=what, hits=len(records) - len(missed), of=len(records), missed=missed)


def shares(records: Iterable[Record]) -> list[Share]:
    """Every figure that the benchmark prints, over the records of one half."""
    ran = [record for record in records if record.carried and not record.error]
    planted = [record for record in ran if record.kind == "planted" and record.is_graded]
    beside = [record for record in ran if record.kind == "planted" and not record.is_graded]
    shown = [record for record in planted if record.is_first and FAULTS[record.planted[0]].concerns != "neither"]
    healthy = [record for record in ran if record.kind == "healthy"]
    pairs = [record for record in ran if record.kind == "pair"]
    return [
        share("planted fault named first", planted, lambda record: record.is_first),
        share("planted fault within the first three", planted, lambda record: record.named_within(3)),
        share("planted fault detected", planted, lambda record: record.is_detected),
        share("named first and confirmed, where a loss can show it", shown, lambda record: record.first_is_confirmed),
        share("a wrong cause confirmed (planted)", planted, lambda record: bool(record.wrong_but_confirmed)),
        share("deviation or explanation told", beside, lambda record: record.is_detected),
        share("suspicion on a healthy setup", healthy, lambda record: bool(record.causes)),
        share("confirmed cause on a healthy setup", healthy, lambda record: bool(record.wrong_but_confirmed)),
        share("both of a pair named", pairs, lambda record: record.is_detected),
        share("at least one of a pair named first", pairs, lambda record: first_of(record) in record.planted),
        share("a wrong cause confirmed (pairs)", pairs, lambda record: bool(record.wrong_but_confirmed)),
    ]


def first_of(record: Record) -> str:
    """The id of the cause that is told first; empty where there is none."""
    return record.causes[0].id if record.causes else ""


def seconds_per_diagnosis(records: Iterable[Record]) -> tuple[float, float, float]:
    """Median, and what one in twenty falls short of or goes beyond; NaN where there is no diagnosis."""
    taken = sorted(record.seconds for record in records if record.carried and not record.error)
    if not taken:
        return math.nan, math.nan, math.nan
    return statistics.median(taken), taken[len(taken) // 20], taken[-1 - len(taken) // 20]


def in_words(one: Share) -> str:
    """A share as a line of text: percent, interval, count."""
    if not one.of:
        return f"{one.what:<52} none"
    low, high = one.interval
    return f"{one.what:<52} {one.value:6.1%}  [{low:6.1%}, {high:6.1%}]  {one.hits} of {one.of}"


def confusion(records: Sequence[Record]) -> str:
    """The confusion matrix as Markdown: it is sparse, so each planted fault is a row that lists what was named."""
    planted = [record for record in records if record.kind == "planted" and record.carried and not record.error]
    rows = [fault_row(fault, [r for r in planted if r.planted == (fault.id,)]) for fault in CATALOGUE]
    healthy = [record for record in records if record.kind == "healthy" and not record.error]
    alarms = Counter(cause.id for record in healthy for cause in record.suspects)
    told = ", ".join(f"{id_} {count}" for id_, count in alarms.most_common()) or "none"
    header = ["planted", "in", "first", "in three", "confirmed", "named first instead", "named as well"]
    table = [header, ["---"] * len(header), *(row for row in rows if row)]
    return "\n".join(
        [
            "# Which fault is named where which is planted",
            "",
            "Made by `unplateau benchmark faults`; not written by hand. Consequences are not counted.",
            "",
            *("| " + " | ".join(row) + " |" for row in table),
            "",
            f"Alarms on {len(healthy)} healthy setups: {told}.",
            "",
        ]
    )


def fault_row(fault: Fault, records: Sequence[Record]) -> list[str]:
    """One planted fault: counts, and what else was named how often. Empty where it was planted nowhere."""
    if not records:
        return []
    instead = Counter(first_of(record) or "nothing" for record in records if not record.is_first)
    first = sum(record.is_first for record in records)
    if fault.grade not in ALARMING:
        found = sum(record.is_detected for record in records)
        instead = Counter(first_of(record) for record in records if record.causes)
        return [f"{fault.id} ({fault.grade})", str(len(records)), f"told {found}", "", "", listed(instead), ""]
    as_well = Counter(
        cause.id for record in records for cause in record.suspects[1:] if record.is_first and cause.id != fault.id
    )
    within = sum(record.named_within(3) for record in records)
    confirmed = sum(record.is_first and record.first_is_confirmed for record in records)
    counts = [str(len(records)), str(first), str(within), str(confirmed)]
    return [fault.id, *counts, listed(instead), listed(as_well)]


def listed(counts: Counter[str]) -> str:
    """Names with how often they came, the most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
