"""The answer: what a reader must know if they read nothing else."""

import math
from collections.abc import Iterator, Sequence

from diagnostics.diagnosis import Cause, Diagnosis, Role
from diagnostics.fault import ALARMING
from diagnostics.levels import ReferenceLevel, nearest
from diagnostics.report.words import (
    ALIKE,
    IN_WORDS,
    between,
    count,
    gap,
    listed,
    milestone_in_words,
    sentence,
    spoken,
    trial_in_words,
)

ON_A_LEVEL = 0.02  # nats: a loss this close is said to rest on a level; ours, a batch's own noise is larger
CONFINED_BY = "softmax-before-cross-entropy"  # the double-softmax levels speak only about a run that has it

BESIDE: dict[str, tuple[Role, ...]] = {
    "Confirmed beside it": ("holds the loss up", "pins the loss", "holds the honest loss up"),
    "Confirmed to make the training loss look better than the predictions are": ("flatters the loss",),
    "Confirmed to slow learning down": ("slows learning",),
    "Confirmed to mislead the setup's own validation": ("misleads the evaluation",),
    "Hidden behind, where removing them pays only once the rest is repaired": ("hidden behind",),
}


def headline(diagnosis: Diagnosis) -> str:
    """The answer in a few words."""
    if diagnosis.state == "healthy":
        return "Healthy: no fault found"
    if diagnosis.state == "unexplained":
        return "Unexplained: no known fault, and yet something is missing"
    first = diagnosis.causes[0]
    title = first.finding.fault.card.title.rstrip(".")
    if first.role == "no loss shows it":
        return f"Found, though no loss shows it: {title}"
    return title if first.confirmed else f"Suspected, not confirmed: {title}"


def answer(diagnosis: Diagnosis) -> Iterator[str]:
    """The sentences of the answer, the deciding ones first."""
    if diagnosis.state == "faulty":
        yield where_it_stands(diagnosis)
        yield from _faulty(diagnosis)
    else:
        yield from _nothing_found(diagnosis)
    if diagnosis.left_out:
        yield (
            f"{count(len(diagnosis.left_out), 'planned training run')} did not fit into the time allowed, so that less "
            "is confirmed here than could be: give the examination more seconds to make them."
        )


def where_it_stands(diagnosis: Diagnosis) -> str:
    """The standing loss against the reference levels, to the fourth decimal."""
    loss, levels = diagnosis.standing, speaking_levels(diagnosis)
    if not math.isfinite(loss):
        return "The loss is not a number."
    stands = f"The loss stands at {loss:.4f}"
    if not levels:
        return f"{stands}."
    confining = [level for level in levels if level.name.startswith("double-softmax")]
    level = nearest(confining or levels, loss)
    if abs(level.nats - loss) > ON_A_LEVEL:
        return f"{stands} nats per token, {between(levels, loss)}."
    means = "" if diagnosis.state == "healthy" else f" A loss here means that {level.means}."
    alike = [
        each for each in levels if each is not level and abs(each.nats - loss) <= (ON_A_LEVEL if confining else ALIKE)
    ]
    if not alike:
        return f"{stands} nats per token, {gap(loss, level.nats)} {spoken(level)}.{means}"
    others = " and ".join(f"not {spoken(each)} but {gap(loss, each.nats)} it" for each in alike)
    return f"{stands} nats per token: {others}, {gap(loss, level.nats)} {spoken(level)}.{means}"


def speaking_levels(diagnosis: Diagnosis) -> tuple[ReferenceLevel, ...]:
    """The levels that say something about this run, from high to low.

    A loss that is given probabilities is confined whatever the model does: then only its own floor and ceiling and ln V
    (for which the ceiling is mistaken) speak. In every other run these two do not.
    """
    confined = any(finding.fault.id == CONFINED_BY for finding in diagnosis.verdicts("present"))
    own = [level for level in diagnosis.levels if level.name.startswith("double-softmax")]
    others = [level for level in diagnosis.levels if level not in own]
    chosen = [*own, *(level for level in others if level.name == "uniform")] if confined else others
    return tuple(sorted(chosen, key=lambda level: -level.nats))


def _faulty(diagnosis: Diagnosis) -> Iterator[str]:
    first, *rest = diagnosis.causes
    if first.confirmed:
        yield f"The first cause is {first.id}. Confirmed by removing it: {trial_in_words(first)}."
    else:
        what = "What was found" if first.role == "no loss shows it" else "The first suspect"
        yield f"{what} is {first.id}: {IN_WORDS[first.role]}. {sentence(first.because)}"
    for words, roles in BESIDE.items():
        if ids := [cause.id for cause in rest if cause.role in roles]:
            yield f"{words}: {listed(ids)}."
    if diagnosis.repair_order:
        yield f"Repair in this order: {', then '.join(diagnosis.repair_order)}."
        required = [each for each in diagnosis.milestones if each.required]
        yield from (f"After that, {milestone_in_words(each, diagnosis.seeds)}." for each in required)
    else:
        yield "No cause could be confirmed by removing it, so no order of repair is proposed."
    yield from _suspected(rest if first.confirmed else [])
    yield from _proved(diagnosis.causes)


def _suspected(causes: Sequence[Cause]) -> Iterator[str]:
    """What is present and could not be tried."""
    if ids := [cause.id for cause in causes if cause.role == "not confirmed"]:
        yield f"Suspected as well, with an experiment that you can run below: {listed(ids)}."


def _proved(causes: Sequence[Cause]) -> Iterator[str]:
    """What a person should repair although no trial showed its damage: it cannot happen in a sound setup."""
    undecided = [cause for cause in causes if cause.role in ("no effect here", "not confirmed")]
    ids = [cause.id for cause in undecided if cause.finding.fault.grade == "proof"]
    if ids:
        yield (
            f"Repair {listed(ids)} too: a sound setup cannot have this, and a short trial may not show the damage "
            "(more steps: Budget.fresh_steps)."
        )


def _nothing_found(diagnosis: Diagnosis) -> Iterator[str]:
    """A healthy setup's numbers, or what is missed in one that no known fault explains."""
    harmless = any(cause.finding.fault.grade in ALARMING for cause in diagnosis.deviations)
    found = "holds anything up here" if harmless else "is present"
    missed = [milestone for milestone in diagnosis.milestones if milestone.required and not milestone.reached]
    yield f"None of the {len(diagnosis.findings)} faults looked for {found} ({_tally(diagnosis)})."
    yield from (sentence(milestone_in_words(each, diagnosis.seeds)) for each in missed or diagnosis.milestones)
    if not diagnosis.milestones:
        yield "No training run was made, so nothing here shows that the setup learns."
    yield where_it_stands(diagnosis)
    if diagnosis.state == "unexplained":
        yield from _advice(diagnosis)


def _advice(diagnosis: Diagnosis) -> Iterator[str]:
    """What to try when no known fault explains a missed milestone."""
    for finding in diagnosis.explanations:
        yield f"It may be no fault: {sentence(finding.verdict.because)}"
    if unclear := diagnosis.verdicts("unclear"):
        yield f"Look first at what the evidence leaves open: {listed([finding.fault.id for finding in unclear])}."
    if untested := diagnosis.verdicts("not tested"):
        reasons = dict.fromkeys(finding.verdict.because for finding in untested)
        yield f"{count(len(untested), 'fault')} could not be tested; make that possible: {'; '.join(reasons)}."
    yield (
        "Then give the trials more steps (Budget.one_batch_steps and fresh_steps): a small rate may need them. If that "
        "does not help, try a learning rate three times smaller and three times larger."
    )


def _tally(diagnosis: Diagnosis) -> str:
    kinds = (("absent", "ruled out"), ("unclear", "unclear"), ("not tested", "not tested"))
    counted = [(len(diagnosis.verdicts(status)), words) for status, words in kinds]
    found = diagnosis.verdicts("present")
    counted.append((sum(f.fault.grade in ALARMING for f in found), "measured harmless here"))
    counted.append((sum(f.fault.grade not in ALARMING for f in found), "departures or reasons that are no faults"))
    return ", ".join(f"{number} {words}" for number, words in counted if number) or "none was judged"
