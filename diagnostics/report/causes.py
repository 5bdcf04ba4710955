"""Causes, suspects and what was measured harmless: each with its trial, its evidence, its repair and an experiment."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from diagnostics.diagnosis import Cause, Diagnosis, Role
from diagnostics.fault import ALARMING, Fault, Finding
from diagnostics.report.parts import Entry, Section
from diagnostics.report.repairs import shares
from diagnostics.report.words import (
    IN_WORDS,
    because_it_hurts,
    fall,
    listed,
    measured_by,
    number,
    percent,
    sentence,
    trial_in_words,
)
from diagnostics.trial import Trial

MEMORISED_BY = "whole-sentences-as-tokens"

HOW_TO_READ = (
    "How to read the numbers: each trial trains fresh models from the same seeds twice, without and with the repair. "
    "The paired error says how exactly the difference is known; a seed alone is what another random start does; a "
    "placebo is a repair with all of its machinery that changes nothing. A repair confirms its cause only if it does "
    "more than these."
)
OPENINGS: dict[Role, str] = {
    "flatters the loss": "The training loss looks better than the predictions are",
    "slows learning": "Learning is slow",
    "misleads the evaluation": "The validation loss is not what it seems",
}
EXPECTED = {
    "fit": "the loss of one fixed batch falls lower after the same number of steps",
    "honesty": (
        "new text, each token predicted from what stands before it alone, gets a lower loss (the training loss may "
        "well rise, because it sees no answers any more)"
    ),
    "evaluation": "the validation loss of the very same weights changes",
    "neither": "what costs memory or bookkeeping now is gone, while no loss changes",
}


def why_it_stood(diagnosis: Diagnosis) -> Iterator[str]:
    """Plain words, made of the confirmed causes and the levels; a paragraph for each kind of cause."""
    of = {role: [cause for cause in diagnosis.confirmed if cause.role == role] for role in IN_WORDS}
    first, more = of["holds the loss up"], of["holds the honest loss up"]
    if not first:
        first, more = more[:1], more[1:]
    for cause in first:
        yield f"{_what_it_is(cause)} Without it {fall(cause.trials[0])}."
    if more:
        yield f"Removing {' or '.join(cause.id for cause in more)} alone lowers the loss on new text as well."
    if pins := of["pins the loss"]:
        floor = number(pins[0].trials[0].reference)
        kept = " ".join(map(_what_it_is, pins))
        yield f"The loss given so could still sink to its floor, {floor}. What keeps it above: {kept}"
    for role, opening in OPENINGS.items():
        for cause in of[role]:
            yield f"{opening}: {_what_it_is(cause)} Without it, {fall(cause.trials[0])}."
    if behind := of["hidden behind"]:
        ids = listed([cause.id for cause in behind])
        joint = "".join(f" {sentence(words)}" for words in redundancies(behind))
        yield f"Even then the loss on new text stays up, which the training loss cannot show: {ids}.{joint}"


def _what_it_is(cause: Cause) -> str:
    fault = cause.finding.fault
    return f"{sentence(fault.card.title)} {because_it_hurts(fault)}"


def why_it_sang(diagnosis: Diagnosis) -> Iterator[str]:
    """Why sampled text holds whole lines of the training text, where the tokenizer made tokens of them."""
    finding = next((finding for finding in diagnosis.verdicts("present") if finding.fault.id == MEMORISED_BY), None)
    if finding is None:
        return
    yield (
        f"{finding.fault.card.title} {sentence(finding.verdict.because)} Such a token is written out whole whenever "
        "it is drawn. So lines of the training text stand in the sample word for word, even where tokens are drawn at "
        "random: they say something about the tokenizer, and nothing about what the model has learned."
    )


def redundancies(causes: Iterable[Cause]) -> Iterator[str]:
    """One sentence for each set of faults of which only a joint repair helps."""
    groups = {frozenset((cause.id, *cause.only_with)) for cause in causes if cause.confirmed and cause.only_with}
    for group in sorted(map(sorted, groups)):
        yield (
            f"{listed(group)} are redundant: with the others in place, repairing one of them alone gains nothing, "
            "repairing them together does"
        )


def cause_sections(diagnosis: Diagnosis) -> Iterator[Section]:
    """What is confirmed, what hides behind it, what is suspected, and what is present without any effect."""
    front = [cause for cause in diagnosis.confirmed if cause.role != "hidden behind"]
    behind = [cause for cause in diagnosis.confirmed if cause.role == "hidden behind"]
    suspected = [cause for cause in diagnosis.causes if cause.role == "not confirmed"]
    others = [cause for cause in diagnosis.causes if not cause.confirmed and cause not in suspected]
    read = (HOW_TO_READ,) if front else ()
    groups = (
        ("causes", "Causes, confirmed by removing them", read, front),
        ("behind", "Behind them", tuple(map(sentence, redundancies(behind))), behind),
        ("suspected", "Suspected: present, and not confirmed by a trial", (), suspected),
        ("unconfirmed", "Present, and not what holds the loss up as far as trials can tell", (), others),
    )
    for name, title, paragraphs, causes in groups:
        entries = tuple(_cause_entry(cause, diagnosis) for cause in causes)
        yield Section(name=name, title=title, paragraphs=paragraphs, entries=entries)


def _cause_entry(cause: Cause, diagnosis: Diagnosis) -> Entry:
    """A cause with what confirmed it, its evidence, its repair and where the numbers come from."""
    finding, fault = cause.finding, cause.finding.fault
    facts = [_trial_fact(cause), *_interplay(cause, diagnosis), *_finding_facts(finding, fault)]
    undecided = cause.role == "not confirmed" or (cause.role == "no effect here" and fault.grade == "proof")
    if undecided:
        facts.insert(2, ("Try it yourself", experiment(fault)))
    return Entry(
        title=fault.card.title,
        fault=fault.id,
        role=IN_WORDS[cause.role],
        facts=tuple(facts),
        wrong=fault.wrong,
        right=fault.right,
    )


def _trial_fact(cause: Cause) -> tuple[str, str]:
    """What the deciding trial said, or why there is none."""
    if not cause.trials:
        no_loss = cause.because == cause.finding.verdict.because
        return "Trial", "None: no loss shows this." if no_loss else sentence(cause.because)
    return _outcome(cause, cause.trials[0]), sentence(trial_in_words(cause))


def _outcome(cause: Cause, trial: Trial) -> str:
    if cause.confirmed:
        return "Confirmed by removing it"
    if trial.counts and not trial.beats_sham:
        return "Removed: a placebo does as much"
    return "Worse with the repair" if trial.harms else "Removed, without gain"


def _interplay(cause: Cause, diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """How a cause acts together with others: its share, what must be repaired with it, what its repair hides."""
    if cause.id in dict(shares(diagnosis)):
        share = percent(dict(shares(diagnosis))[cause.id])
        yield "Share", f"Its repair takes away {share} of the loss of one batch, averaged over orders of repair."
    if cause.confirmed and cause.only_with:
        yield "Repair together with", sentence(listed(cause.only_with))
    if cause.confirmed and (told := " ".join((*_hides(cause), *_reveals(cause, diagnosis)))):
        yield "Hides and reveals", told


def _hides(cause: Cause) -> Iterator[str]:
    """The loss that gets worse where this is repaired and nothing else."""
    worse = [trial for trial in cause.trials if trial.harms and not trial.repaired]
    if worse and cause.role != "flatters the loss":
        yield f"Repaired alone, it makes things look worse: {fall(worse[0])}. Do not stop there."


def _reveals(cause: Cause, diagnosis: Diagnosis) -> Iterator[str]:
    for step in diagnosis.path:
        if step.repaired == cause.id and step.reveals:
            yield f"With it and what stands before it repaired, {listed(step.reveals)} can be seen."


def experiment(fault: Fault) -> str:
    """What a user can do where no trial could be made: change the code, run again, and what to conclude."""
    remedy = fault.card.sections["Remedy"].rstrip(".")
    return (
        f"Change your own code: {remedy}. Then run both versions again, from the same two seeds or more. If "
        f"{EXPECTED[fault.concerns]}, and by more than another seed moves it, this was a cause. If not, it does no "
        "harm that such a run can show."
    )


def _finding_facts(finding: Finding, fault: Fault) -> Iterator[tuple[str, str]]:
    yield "Evidence", sentence(finding.verdict.because)
    if finding.revealed:
        yield "Came to light", "Only after the other faults were repaired together."
    yield "Repair", sentence(fault.card.sections["Remedy"])
    yield "Probe", measured_by(finding)


def harmless(diagnosis: Diagnosis) -> Section:
    """Departures from the recipe, and signs of trouble that trials found to do nothing."""
    measured = all(cause.trials for cause in diagnosis.deviations)
    title = "Measured harmless here" if measured else "Harmless here, as far as is known"
    entries = tuple(_harmless_entry(cause, diagnosis) for cause in diagnosis.deviations)
    return Section(name="deviations", title=title, entries=entries)


def _harmless_entry(cause: Cause, diagnosis: Diagnosis) -> Entry:
    """A harmless finding with its trial and evidence; how to repair it stands on its card."""
    kind = "a sign that often means trouble" if cause.finding.fault.grade in ALARMING else "departs from the recipe"
    said = "measured harmless here" if cause.trials else "not tried: nothing is wrong here that it could explain"
    entry = _cause_entry(cause, diagnosis)
    facts = tuple(fact for fact in entry.facts if fact[0] not in ("Repair", "Try it yourself"))
    return replace(entry, role=f"{kind}; {said}", facts=facts, wrong="", right="")


def reason(finding: Finding) -> Entry:
    """A reason that is no fault, with its evidence."""
    fault = finding.fault
    facts = (("Evidence", sentence(finding.verdict.because)), ("Probe", measured_by(finding)))
    return Entry(title=fault.card.title, fault=fault.id, facts=facts)
