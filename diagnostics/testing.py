"""The catalogue in a user's own test suite: one assertion for all of it, or one test per fault.

Faults are judged on the subject as it stands; nothing is repaired, and nothing hidden behind something else is looked
for. Only what needs pytest imports it, and only when it is called.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from diagnostics.adapt import check_scope
from diagnostics.examination import built_once, judge, probes_of, take_readings
from diagnostics.fault import ALARMING, Fault, Finding, is_alarm, not_tested
from diagnostics.faults import CATALOGUE
from diagnostics.probe import Probe, Reading
from diagnostics.rows import affordable
from diagnostics.subject import Subject

NO_FAILURES: Mapping[str, str] = {}


def check_subject(
    subject: Subject,
    *,
    expected_failures: Mapping[str, str] = NO_FAILURES,
    faults: Sequence[Fault] = CATALOGUE,
    training: bool = False,
    seed: int = 0,
) -> None:
    """Passes where none of the faults of grade proof or sign is present.

    Args:
        subject: left as it was, by value.
        expected_failures: fault id -> why it is there and may stay. One that is not there any more is a failure too.
        faults: the catalogue entries to look for.
        training: whether probes that take optimizer steps are read too (seconds to minutes); otherwise forward and
            backward passes alone.
        seed: of the fresh model and the batches.

    Raises:
        AssertionError: every fault that is present with the sentence that shows it, a line each; and what was expected
            and is absent.
        ValueError: an expected failure names no fault of these, or has no reason.
    """
    check_expected(expected_failures, faults)
    desk = Desk(make_subject=lambda: subject, training=training, seed=seed)
    desk.read(probes_of(faults, ("forward", "training") if training else ("forward",)))
    findings = {fault.id: desk.finding(fault) for fault in faults}
    alarms = {id_: finding for id_, finding in findings.items() if is_alarm(finding)}
    lines = [described(finding, alarms) for id_, finding in alarms.items() if id_ not in expected_failures]
    absent = [id_ for id_ in expected_failures if findings[id_].verdict.status == "absent"]
    lines += [f"{id_} was expected ({expected_failures[id_]}) and is absent: strike it off" for id_ in absent]
    if lines:
        raise AssertionError(f"{subject.name}:\n" + "\n".join(f"- {line}" for line in lines))


def fault_cases(
    make_subject: Callable[[], Subject] | Subject,
    *,
    expected_failures: Mapping[str, str] = NO_FAILURES,
    faults: Sequence[Fault] = CATALOGUE,
    training: bool = False,
    seed: int = 0,
) -> list[Any]:
    """One pytest case per fault of grade proof or sign, for ``pytest.mark.parametrize``; its id is the fault's.

    An expected failure is marked ``xfail(strict=True)`` with its reason: once it is mended, the test says so.

    Args:
        make_subject: called once, when the first test runs; or a subject.

    >>> @pytest.mark.parametrize("fault", fault_cases(make_subject))  # doctest: +SKIP
    ... def test_my_training_has_no(fault):
    ...     fault.check()
    """
    import pytest

    check_expected(expected_failures, faults)
    make = (lambda: make_subject) if isinstance(make_subject, Subject) else make_subject
    desk, cases = Desk(make_subject=make, training=training, seed=seed), []
    for fault in (each for each in faults if each.grade in ALARMING):
        why = expected_failures.get(fault.id)
        marks = () if why is None else (pytest.mark.xfail(reason=why, strict=True, raises=AssertionError),)
        cases.append(pytest.param(Case(fault=fault, desk=desk), id=fault.id, marks=marks))
    return cases


@dataclass
class Desk:
    """A subject and what has been read of it; shared by the cases, so that each probe is read once."""

    make_subject: Callable[[], Subject]
    training: bool
    seed: int
    readings: dict[str, Reading] = field(default_factory=dict)

    @cached_property
    def subject(self) -> Subject:
        """The subject, made when first asked for, with batches that a step can afford."""
        subject = self.make_subject()
        check_scope(subject.model)
        return built_once(affordable(subject))

    def read(self, probes: Sequence[Probe]) -> None:
        """Read those of the probes that have not been read."""
        new = [probe for probe in probes if probe.name not in self.readings]
        self.readings |= take_readings(self.subject, new, seed=self.seed, progress=lambda stage, done, of: None)

    def finding(self, fault: Fault) -> Finding:
        """The fault's finding on the subject as it stands."""
        trains = [probe.name for probe in fault.measured_by if probe.cost == "training"]
        if trains and not self.training:
            why = f"{trains[0]} takes training steps; pass training=True"
            return Finding(fault=fault, verdict=not_tested(why))
        self.read(fault.measured_by)
        return judge(fault, self.readings)


@dataclass(frozen=True)
class Case:
    """One fault to look for; call ``check`` in a test."""

    fault: Fault
    desk: Desk

    def check(self) -> None:
        """Passes where the fault is not found, skips with the reason where it cannot be tested.

        Raises:
            AssertionError: it is present; with the sentence that shows it.
        """
        import pytest

        finding = self.desk.finding(self.fault)
        if finding.verdict.status == "not tested":
            pytest.skip(f"{self.fault.id} was not tested: {finding.verdict.because}")
        if is_alarm(finding):
            raise AssertionError(described(finding, {}))


def described(finding: Finding, alarms: Mapping[str, Finding]) -> str:
    """A fault that is present: its id, what is wrong, the numbers that show it, and what may have brought it about."""
    fault, because = finding.fault, finding.verdict.because
    from_ = [id_ for id_ in fault.follows_from if id_ in alarms]
    source = f" It may follow from {', '.join(from_)}." if from_ else ""
    said = f"{because[:1].upper()}{because[1:]}".removesuffix(".")
    return f"{fault.id}: {fault.card.title} {said}.{source} See `unplateau explain {fault.id}`."


def check_expected(expected_failures: Mapping[str, str], faults: Sequence[Fault]) -> None:
    """Raises ValueError where an expected failure is no fault of these, or has no reason."""
    known = {fault.id for fault in faults}
    for id_, why in expected_failures.items():
        if id_ not in known:
            raise ValueError(f"expected_failures names {id_!r}, which is none of the faults that are looked for")
        if not why.strip():
            raise ValueError(f"expected_failures[{id_!r}] needs a reason")
