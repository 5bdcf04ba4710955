"""Faults judge: a named cause that can hold a loss up, one catalogue entry each."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType, ModuleType
from typing import Literal

from diagnostics.intervention import Intervention
from diagnostics.probe import Probe, Reading
from diagnostics.subject import Subject

Status = Literal["present", "absent", "unclear", "not tested"]
Grade = Literal["proof", "sign", "deviation", "explanation"]
ALARMING: tuple[Grade, ...] = ("proof", "sign")  # they say "this is wrong"; the others say "this is so"
HARMLESS = "harmless for the loss"  # a number of a verdict: 1 where a fault is present in a form that no loss can show
Family = Literal["model", "data", "optimization", "evaluation"]
Concerns = Literal["fit", "honesty", "evaluation", "neither"]

HEADINGS = (
    "Shows as", "Why it hurts", "Measured by", "Judged by", "Looks like", "Remedy", "Blind spots", "Source",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """present / absent / unclear / not tested, and one sentence with the deciding numbers."""

    status: Status
    because: str
    numbers: dict[str, float] = field(default_factory=dict)


def present(because: str, **numbers: float) -> Verdict:
    """The fault is there; ``because`` holds the deciding numbers."""
    return Verdict(status="present", because=because, numbers=numbers)


def absent(because: str, **numbers: float) -> Verdict:
    """The fault is not there; ``because`` says what rules it out."""
    return Verdict(status="absent", because=because, numbers=numbers)


def unclear(because: str, **numbers: float) -> Verdict:
    """The evidence does not decide."""
    return Verdict(status="unclear", because=because, numbers=numbers)


def not_tested(because: str) -> Verdict:
    """There is no evidence, and why."""
    return Verdict(status="not tested", because=because)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A named cause; read "this run has a ...".

    Args:
        id: file name with hyphens.
        family: where a person would look for it.
        grade: "proof" cannot happen in a healthy setup; "sign" suggests; "deviation" departs from the recipe and is
            harmless until a trial says otherwise; "explanation" is a reason that is no fault.
        concerns: which loss shows its removal: "fit" the training loss (one batch), "honesty" the held-out loss in
            the way the model generates, "evaluation" the validation loss as the user computes it, "neither" where no
            loss shows it (memory, bookkeeping).
        repair_rank: the order in which a person repairs; lower first. What hides other faults comes first.
        measured_by: the probes whose measurements ``judge`` takes, in this order.
        judge: pure: measurements -> verdict. Called only when every measurement is there.
        plant: the wrong example, executable: a healthy subject -> the same with this fault. None where no
            generic planting exists (the card's blind spots say so).
        remedies: interventions that act from outside, the most exact first.
        follows_from: faults that bring this state about; where one of them is present, this is its consequence.
        wrong / right: the same few lines of code, with and without the fault.
    """

    id: str
    family: Family
    grade: Grade
    concerns: Concerns
    repair_rank: int
    measured_by: tuple[Probe, ...]
    judge: Callable[..., Verdict]
    plant: Callable[[Subject], Subject] | None = None
    remedies: tuple[Intervention, ...] = ()
    looks_like: tuple[str, ...] = ()
    follows_from: tuple[str, ...] = ()
    wrong: str = ""
    right: str = ""

    @property
    def card(self) -> "Card":
        """Title and headings from the docstring of the fault's file."""
        return card_of(inspect.getmodule(self.judge))

    @property
    def is_about_vocabulary(self) -> bool:
        """Whether it is judged by the text: removing it takes another vocabulary, and so another scale of the loss."""
        return any("text_view" in probe.needs for probe in self.measured_by)

    def remedy_for(self, subject: Subject) -> Intervention | None:
        """The first outside remedy whose needs this subject meets; None where there is none."""
        return next((r for r in self.remedies if subject.missing(r.needs) is None), None)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person reads about a fault: one sentence and the headings of HEADINGS."""

    title: str
    sections: MappingProxyType[str, str]


def card_of(module: ModuleType | None) -> Card:
    """The card in a fault file's docstring.

    Raises:
        ValueError: a heading is missing or empty.
    """
    text = inspect.getdoc(module) or ""
    title, _, body = text.partition("\n")
    found = re.findall(r"^([A-Z][a-z ]+):[ ]+(.*(?:\n[ ]+.*)*)", body, re.MULTILINE)
    sections = {heading: " ".join(body.split()) for heading, body in found}
    for heading in HEADINGS:
        if not sections.get(heading):
            raise ValueError(f"the card of {getattr(module, '__name__', module)} has no '{heading}:' section")
    return Card(title=title.strip(), sections=MappingProxyType(sections))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A fault with its verdict on this subject.

    ``revealed`` is True where the evidence came to light only after other faults were repaired.
    """

    fault: Fault
    verdict: Verdict
    readings: tuple[Reading, ...] = ()
    revealed: bool = False


def is_alarm(finding: Finding) -> bool:
    """Whether a fault of grade proof or sign is present."""
    return is_present(finding) and finding.fault.grade in ALARMING


def is_present(finding: Finding) -> bool:
    """Whether the verdict is "present"."""
    return finding.verdict.status == "present"
