"""The report only speaks: a finished diagnosis in sentences, the answer first.

`sections` is the one place where a diagnosis becomes words. Markdown, the page and the terminal only lay these sections
out, so that all three say the same. Nothing here measures or decides; every number is read off the diagnosis, and the
last section says which probe, which seed and which key of diagnosis.json it comes from.
"""

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from diagnostics.diagnosis import Cause, Diagnosis, Milestone, Role, to_json
from diagnostics.fault import Fault, Finding
from diagnostics.levels import ReferenceLevel, nearest
from diagnostics.probe import Reading
from diagnostics.trial import Trial

ON_A_LEVEL = 0.02  # nats: a loss this close is said to rest on a level; ours, a batch's own noise is larger
ALIKE = 1e-3  # nats: levels this close to the loss are told apart in words
LISTED_VALUES = 6  # longer measured lists are counted, not printed

CONFINED_BY = "softmax-before-cross-entropy"  # the double-softmax levels speak only about a run that has it
MEMORISED_BY = "whole-sentences-as-tokens"

IN_WORDS: dict[Role, str] = {
    "holds the loss up": "holds the loss up: with it removed, the model fits",
    "pins the loss": "pins the loss: keeps it above the floor that another cause allows",
    "holds the honest loss up": "holds the honest loss up: with it removed, new text is predicted better",
    "hidden behind": "hidden behind the causes above: removing it pays once they are removed",
    "flatters the loss": "makes the training loss look better than the predictions are: it gives the answers away",
    "slows learning": "slows learning down: with it removed, the same steps learn far more",
    "misleads the evaluation": "makes the setup's own validation loss say something else than it should",
    "not confirmed": "present, but no trial could confirm it",
    "no loss shows it": "present; it costs memory, bookkeeping or text, and no loss shows it",
    "follows from others": "present, as a consequence of other causes; it goes away with them",
    "no effect here": "present, and removing it gains nothing that the trials can see",
}
SPOKEN = {
    "uniform": "ln V, the loss of a uniform guess",
    "unigram": "the entropy of the token frequencies",
    "bigram": "the entropy of a token given the one before it",
    "held-out unigram": "the training frequencies on new text",
    "held-out bigram": "the training pairs on new text",
    "double-softmax floor": "the floor of a loss that is given probabilities",
    "double-softmax ceiling": "the ceiling of a loss that is given probabilities",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that a section tells: a cause, a deviation, a step.

    Args:
        title: one sentence.
        fault: the id of the fault that it is about.
        role: what it does to this run, in plain words.
        facts: (what, sentence) pairs, the deciding one first.
        wrong / right: the same few lines of code with and without the fault.
    """

    title: str
    fault: str | None = None
    role: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    wrong: str = ""
    right: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A caption, column names and rows of plain text."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report.

    Args:
        name: stable, for anchors: "answer", "why", "causes", "behind", "unconfirmed", "song", "deviations", "order",
            "after", "reasons", "unclear", "ruled-out", "not-tested", "levels", "evidence".
        appendix: True for what one looks up instead of reading.
    """

    name: str
    title: str
    paragraphs: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    tables: tuple[Table, ...] = ()
    appendix: bool = False


def sections(diagnosis: Diagnosis) -> tuple[Section, ...]:
    """The whole report as plain text, the answer first; parts that have nothing to say are left out."""
    told = (
        Section(name="answer", title=headline(diagnosis), paragraphs=tuple(answer(diagnosis))),
        Section(name="why", title="Why the loss stood there", paragraphs=tuple(why_it_stood(diagnosis))),
        *_causes(diagnosis),
        Section(name="song", title="Why the sample contained whole lines", paragraphs=tuple(why_it_sang(diagnosis))),
        Section(
            name="deviations",
            title="Departs from the recipe, measured harmless",
            entries=tuple(_deviation_entry(cause) for cause in diagnosis.deviations),
        ),
        Section(name="order", title="The order of repair", entries=tuple(_steps(diagnosis))),
        _after(diagnosis),
        Section(
            name="reasons",
            title="Reasons that are no faults",
            entries=tuple(_finding_entry(finding) for finding in diagnosis.explanations),
        ),
        _verdicts(diagnosis, "unclear", "Unclear", "Evidence that does not decide"),
        _verdicts(diagnosis, "absent", "Ruled out", "Faults that this run does not have"),
        _verdicts(diagnosis, "not tested", "Not tested", "Faults without evidence, and why"),
        _levels(diagnosis),
        _evidence(diagnosis),
    )
    return tuple(section for section in told if section.paragraphs or section.entries or section.tables)


# --- the answer ------------------------------------------------------------------------------------------------------


def headline(diagnosis: Diagnosis) -> str:
    """The answer in a few words."""
    if diagnosis.state == "healthy":
        return "Healthy: no fault found"
    if diagnosis.state == "unexplained":
        return "Unexplained: no known fault, and yet something is missing"
    first = diagnosis.causes[0]
    title = first.finding.fault.card.title.rstrip(".")
    return title if first.confirmed else f"Suspected, not confirmed: {title}"


def answer(diagnosis: Diagnosis) -> Iterator[str]:
    """What a reader must know if they read nothing else."""
    if diagnosis.state == "faulty":
        yield where_it_stands(diagnosis)
        yield from _faulty(diagnosis)
        return
    missed = [milestone for milestone in diagnosis.milestones if milestone.required and not milestone.reached]
    yield f"None of the {len(diagnosis.findings)} faults looked for is present ({_tally(diagnosis)})."
    yield from (_sentence(milestone_in_words(each, diagnosis.seeds)) for each in missed or diagnosis.milestones)
    if not diagnosis.milestones:
        yield "No training run was made, so nothing here shows that the setup learns."
    yield where_it_stands(diagnosis)
    if diagnosis.state == "unexplained":
        yield from _advice(diagnosis)


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
        return f"{stands} nats per token, {_between(levels, loss)}."
    means = "" if diagnosis.state == "healthy" else f" A loss here means that {level.means}."
    alike = [
        each for each in levels if each is not level and abs(each.nats - loss) <= (ON_A_LEVEL if confining else ALIKE)
    ]
    if not alike:
        return f"{stands} nats per token, {_gap(loss, level.nats)} {_spoken(level)}.{means}"
    others = " and ".join(f"not {_spoken(each)} but {_gap(loss, each.nats)} it" for each in alike)
    return f"{stands} nats per token: {others}, {_gap(loss, level.nats)} {_spoken(level)}.{means}"


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
        yield f"The first suspect is {first.id}: {IN_WORDS[first.role]}. {_sentence(first.because)}"
    more = [cause.id for cause in rest if cause.confirmed and cause.role != "hidden behind"]
    behind = [cause.id for cause in rest if cause.role == "hidden behind"]
    if more:
        yield f"Confirmed beside it: {_listed(more)}."
    if behind:
        yield f"Hidden behind, where removing them pays only once the rest is repaired: {_listed(behind)}."
    if diagnosis.repair_order:
        yield f"Repair in this order: {', then '.join(diagnosis.repair_order)}."
        required = [each for each in diagnosis.milestones if each.required]
        yield from (f"After that, {milestone_in_words(each, diagnosis.seeds)}." for each in required)
    else:
        yield "No cause could be confirmed by removing it, so no order of repair is proposed."
    yield from _proved(diagnosis)


def _proved(diagnosis: Diagnosis) -> Iterator[str]:
    """What a person should repair although no trial showed its damage: it cannot happen in a sound setup."""
    ids = [
        cause.id
        for cause in diagnosis.causes
        if cause.finding.fault.grade == "proof" and cause.role in ("no effect here", "not confirmed")
    ]
    if ids:
        yield (
            f"Repair {_listed(ids)} too: a sound setup cannot have this, and a short trial may not show the damage "
            "(more steps: Budget.fresh_steps)."
        )


def _advice(diagnosis: Diagnosis) -> Iterator[str]:
    """What to try when no known fault explains a missed milestone."""
    for finding in diagnosis.explanations:
        yield f"It may be no fault: {_sentence(finding.verdict.because)}"
    if unclear := diagnosis.verdicts("unclear"):
        yield f"Look first at what the evidence leaves open: {_listed([finding.fault.id for finding in unclear])}."
    if untested := diagnosis.verdicts("not tested"):
        reasons = dict.fromkeys(finding.verdict.because for finding in untested)
        yield f"{_count(len(untested), 'fault')} could not be tested; make that possible: {'; '.join(reasons)}."
    yield (
        "Then give the trials more steps (Budget.one_batch_steps and fresh_steps): a small rate may need them. If that "
        "does not help, try a learning rate three times smaller and three times larger."
    )


def _tally(diagnosis: Diagnosis) -> str:
    kinds = (("absent", "ruled out"), ("unclear", "unclear"), ("not tested", "not tested"))
    counted = [(len(diagnosis.verdicts(status)), words) for status, words in kinds]
    harmless = sum(finding.fault.grade in ("deviation", "explanation") for finding in diagnosis.verdicts("present"))
    counted.append((harmless, "departures or reasons that are no faults"))
    return ", ".join(f"{count} {words}" for count, words in counted if count) or "none was judged"


# --- paragraphs ------------------------------------------------------------------------------------------------------


def why_it_stood(diagnosis: Diagnosis) -> Iterator[str]:
    """One paragraph of plain words, made of the confirmed causes and the levels."""
    if not diagnosis.confirmed:
        return
    of = {role: [cause for cause in diagnosis.confirmed if cause.role == role] for role in IN_WORDS}
    told = []
    first, more = of["holds the loss up"], of["holds the honest loss up"]
    if not first:
        first, more = more[:1], more[1:]
    for cause in first:
        told += [_sentence(cause.finding.fault.card.title), _because_it_hurts(cause.finding.fault)]
        told.append(f"Without it the {_fall(cause.trials[0])}.")
    if more:
        told.append(f"Removing {' or '.join(cause.id for cause in more)} alone lowers the loss on new text as well.")
    if pins := of["pins the loss"]:
        floor = _number(pins[0].trials[0].reference)
        told.append(f"The loss given so could still sink to its floor, {floor}. What keeps it above:")
        told += [
            f"{_sentence(cause.finding.fault.card.title)} {_because_it_hurts(cause.finding.fault)}" for cause in pins
        ]
    if behind := of["hidden behind"]:
        ids = _listed([cause.id for cause in behind])
        told.append(f"Even then the loss on new text stays up, which the training loss cannot show: {ids}.")
    told += [_sentence(words) for words in _redundancies(diagnosis.confirmed)]
    yield " ".join(told)


def why_it_sang(diagnosis: Diagnosis) -> Iterator[str]:
    """Why sampled text holds whole lines of the training text, where the tokenizer made tokens of them."""
    finding = next((finding for finding in diagnosis.verdicts("present") if finding.fault.id == MEMORISED_BY), None)
    if finding is None:
        return
    yield (
        f"{finding.fault.card.title} {_sentence(finding.verdict.because)} Such a token is written out whole whenever "
        "it is drawn. So lines of the training text stand in the sample word for word, even where tokens are drawn at "
        "random: they say something about the tokenizer, and nothing about what the model has learned."
    )


def _redundancies(causes: Iterable[Cause]) -> Iterator[str]:
    """One sentence for each set of faults of which only a joint repair helps."""
    groups = {frozenset((cause.id, *cause.only_with)) for cause in causes if cause.confirmed and cause.only_with}
    for group in sorted(map(sorted, groups)):
        yield (
            f"{_listed(group)} are redundant: with the others in place, repairing one of them alone gains nothing, "
            "repairing them together does"
        )


# --- causes, steps, verdicts -----------------------------------------------------------------------------------------


def _causes(diagnosis: Diagnosis) -> Iterator[Section]:
    front = [cause for cause in diagnosis.confirmed if cause.role != "hidden behind"]
    behind = [cause for cause in diagnosis.confirmed if cause.role == "hidden behind"]
    others = [cause for cause in diagnosis.causes if not cause.confirmed]
    groups = (
        ("causes", "Causes, confirmed by removing them", (), front),
        ("behind", "Behind them", tuple(map(_sentence, _redundancies(behind))), behind),
        ("unconfirmed", "Present, and not what holds the loss up as far as trials can tell", (), others),
    )
    for name, title, paragraphs, causes in groups:
        yield Section(name=name, title=title, paragraphs=paragraphs, entries=tuple(map(_cause_entry, causes)))


def _cause_entry(cause: Cause) -> Entry:
    """A cause with what confirmed it, its evidence, its repair and where the numbers come from."""
    finding, fault = cause.finding, cause.finding.fault
    facts = []
    if cause.trials:
        unconfirmed = "Worse with the repair" if cause.trials[0].harms else "Removed, without gain"
        label = "Confirmed by removing it" if cause.confirmed else unconfirmed
        facts.append((label, _sentence(trial_in_words(cause))))
    else:
        told = "None: no loss shows this." if cause.because == finding.verdict.because else _sentence(cause.because)
        facts.append(("Trial", told))
    if cause.confirmed and cause.only_with:
        facts.append(("Repair together with", _sentence(_listed(cause.only_with))))
    return Entry(
        title=fault.card.title,
        fault=fault.id,
        role=IN_WORDS[cause.role],
        facts=(*facts, *_finding_facts(finding, fault)),
        wrong=fault.wrong,
        right=fault.right,
    )


def _finding_facts(finding: Finding, fault: Fault) -> Iterator[tuple[str, str]]:
    yield "Evidence", _sentence(finding.verdict.because)
    if finding.revealed:
        yield "Came to light", "Only after the other faults were repaired together."
    yield "Repair", _sentence(fault.card.sections["Remedy"])
    yield "Probe", _measured_by(finding)


def _deviation_entry(cause: Cause) -> Entry:
    """A harmless deviation with its trial and evidence; how to repair it stands on its card."""
    entry = _cause_entry(cause)
    facts = tuple(fact for fact in entry.facts if fact[0] != "Repair")
    return replace(entry, facts=facts, wrong="", right="")


def _finding_entry(finding: Finding) -> Entry:
    fault = finding.fault
    facts = (("Evidence", _sentence(finding.verdict.because)), ("Probe", _measured_by(finding)))
    return Entry(title=fault.card.title, fault=fault.id, facts=facts)


def _steps(diagnosis: Diagnosis) -> Iterator[Entry]:
    """The repairs in order, each with what to do."""
    faults = {finding.fault.id: finding.fault for finding in diagnosis.findings}
    for name in diagnosis.repair_order:
        yield Entry(title=_sentence(faults[name].card.sections["Remedy"]), fault=name)


def _after(diagnosis: Diagnosis) -> Section:
    """What holds after the repairs, or as it stands where nothing is to be repaired."""
    rows = tuple(
        (
            each.claim,
            _values(each.values),
            f"{_number(each.bound)} {each.unit} ({each.bound_is})",
            "reached" if each.reached else "missed" if each.required else "not reached; told because it explains",
        )
        for each in diagnosis.milestones
    )
    columns = ("Claim", "Per seed", "Must be below", "Outcome")
    table = Table(caption=f"Measured over {_seeds(diagnosis.seeds)}", columns=columns, rows=rows)
    title = "What holds after the repairs" if diagnosis.repair_order else "What holds as it stands"
    return Section(name="after", title=title, tables=(table,) if rows else ())


def _verdicts(diagnosis: Diagnosis, status: str, title: str, caption: str) -> Section:
    findings = diagnosis.verdicts(status)
    rows = tuple((each.fault.id, _sentence(each.verdict.because), _measured_by(each)) for each in findings)
    table = Table(caption=caption, columns=("Fault", "Because", "Probe"), rows=rows)
    name = "ruled-out" if status == "absent" else status.replace(" ", "-")
    return Section(name=name, title=f"{title}: {len(rows)}", tables=(table,) if rows else ())


# --- appendix --------------------------------------------------------------------------------------------------------


def _levels(diagnosis: Diagnosis) -> Section:
    rows = [(level.nats, (level.name, f"{level.nats:.4f}", level.means)) for level in diagnosis.levels]
    if math.isfinite(diagnosis.standing):
        rows.append((diagnosis.standing, ("this run", f"{diagnosis.standing:.4f}", "where its loss stands")))
    ordered = tuple(row for _, row in sorted(rows, key=lambda row: -row[0]))
    caption = "Losses that theory names, counted on this run's own targets"
    table = Table(caption=caption, columns=("Level", "Nats per token", "A loss here means that"), rows=ordered)
    return Section(name="levels", title="Reference levels", tables=(table,) if diagnosis.levels else (), appendix=True)


def _evidence(diagnosis: Diagnosis) -> Section:
    tables = (_readings(diagnosis), _trials(diagnosis), _failures(diagnosis))
    names = "Every number above stands in diagnosis.json under the key given here."
    cost = f"The examination took {diagnosis.seconds:.0f} s and {_count(len(diagnosis.runs), 'training run')}."
    return Section(
        name="evidence",
        title="Evidence: probes, seeds and trials",
        paragraphs=(f"{names} {cost}",),
        tables=tuple(table for table in tables if table.rows),
        appendix=True,
    )


def _readings(diagnosis: Diagnosis) -> Table:
    keyed = [(f"readings[{index}].measurement", reading) for index, reading in enumerate(diagnosis.readings)]
    for index, finding in enumerate(diagnosis.findings):
        if finding.revealed:
            keyed += [(f"findings[{index}].numbers, after the other repairs", each) for each in finding.readings]
    rows = tuple((each.probe, str(each.seed), f"{each.seconds:.2f}", _measured(each), key) for key, each in keyed)
    columns = ("Probe", "Seed", "Seconds", "Measured", "Key")
    return Table(caption="What the probes measured", columns=columns, rows=rows)


def _measured(reading: Reading) -> str:
    if reading.measurement is None:
        return f"nothing: {reading.reason or 'no reason was given'}"
    return _facts(reading.measurement)


def _facts(measurement: object) -> str:
    """The facts of a measurement as "name value, name value"; long lists are counted."""
    plain = to_json(measurement)
    if not isinstance(plain, dict):
        return _fact(plain)
    return ", ".join(f"{name} {_fact(value)}" for name, value in plain.items())


def _fact(value: object) -> str:
    if isinstance(value, list) and (len(value) > LISTED_VALUES or any(isinstance(each, list | dict) for each in value)):
        return f"({_count(len(value), 'entry', 'entries')})"
    if isinstance(value, list):
        return f"({', '.join(map(_fact, value))})"
    if isinstance(value, dict):
        return f"({_count(len(value), 'entry', 'entries')})"
    return _number(value) if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)


def _trials(diagnosis: Diagnosis) -> Table:
    groups = (("causes", diagnosis.causes), ("deviations", diagnosis.deviations))
    rows = tuple(
        (
            trial.question,
            trial.quantity,
            ", ".join(map(str, trial.seeds)),
            _values(trial.before),
            _values(trial.after),
            f"{_number(trial.effect)} ({_noise(trial)})",
            f"{group}[{place}].trials[{index}]",
        )
        for group, causes in groups
        for place, cause in enumerate(causes)
        for index, trial in enumerate(cause.trials)
    )
    columns = ("Question", "Quantity", "Seeds", "Before", "After", "Goes away", "Key")
    return Table(caption="What the trials measured, one value per seed", columns=columns, rows=rows)


def _failures(diagnosis: Diagnosis) -> Table:
    rows = tuple(
        (", ".join(sorted(run.repaired)) or "nothing", run.outcome.regime, str(run.outcome.seed), run.outcome.failure)
        for run in diagnosis.runs
        if run.outcome.failure is not None
    )
    columns = ("Repaired", "Regime", "Seed", "Raised")
    return Table(caption="Training runs that raised an error", columns=columns, rows=rows)


# --- words -----------------------------------------------------------------------------------------------------------


def trial_in_words(cause: Cause) -> str:
    """What a trial on a cause compared and found, with seeds and spread: the deciding one, which comes first."""
    trial = cause.trials[0]
    before, after = (_number(statistics.fmean(side)) for side in (trial.before, trial.after))
    setting = trial.question.removeprefix(f"repair {cause.id}, ")
    said = f"with {setting}" if setting != trial.question else f"({setting})"
    return f"the {trial.quantity} goes from {before} to {after} {said} ({_seeds(trial.seeds)}; {_noise(trial)})"


def _fall(trial: Trial) -> str:
    """The two means alone, for a sentence that does not decide anything."""
    before, after = (_number(statistics.fmean(side)) for side in (trial.before, trial.after))
    return f"{trial.quantity} goes from {before} to {after}"


def milestone_in_words(milestone: Milestone, seeds: Sequence[int]) -> str:
    """The claim, whether it holds, and the values of each seed."""
    values = f"{_values(milestone.values)} {milestone.unit} ({_seeds(seeds)})"
    line = f"{_number(milestone.bound)}, {milestone.bound_is}"
    if milestone.reached:
        return f"{milestone.claim}: {values}, below {line}"
    return f"this is missed: {milestone.claim}: {values}, not below {line}"


def _noise(trial: Trial) -> str:
    if len(trial.seeds) < 2:
        return "one seed, so no error bar"
    return f"paired error {_number(trial.effect_error, 2)}, a seed alone moves it by {_number(trial.seed_spread, 2)}"


def _because_it_hurts(fault: Fault) -> str:
    return _sentence(fault.card.sections["Why it hurts"])


def _measured_by(finding: Finding) -> str:
    if not finding.readings:
        return "no probe"
    return ", ".join(f"{reading.probe} (seed {reading.seed})" for reading in finding.readings)


def _between(levels: Sequence[ReferenceLevel], loss: float) -> str:
    above = [level for level in levels if level.nats > loss]
    below = [level for level in levels if level.nats <= loss]
    if not above:
        return f"above every reference level; the highest is {_spoken(below[0])}"
    if not below:
        return f"below every reference level; the lowest is {_spoken(above[-1])}"
    return f"between {_spoken(above[-1])} and {_spoken(below[0])}"


def _spoken(level: ReferenceLevel) -> str:
    return f"{SPOKEN.get(level.name, level.name)} ({level.nats:.4f})"


def _gap(value: float, line: float) -> str:
    """How far a value lies above or below a line: "2e-04 above", or "on"."""
    if abs(value - line) < 5e-5:
        return "on"
    distance = abs(value - line)
    size = f"{distance:.0e}".replace("e-0", "e-") if distance < ALIKE else f"{distance:.4f}"
    return f"{size} {'above' if value > line else 'below'}"


def _number(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else "not a number" if math.isnan(value) else str(value)


def _values(values: Sequence[float]) -> str:
    return ", ".join(map(_number, values)) or "no value"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    """The text with a capital (unless it starts with an identifier or a formula) and a full stop."""
    text = text.strip()
    ended = text if text.endswith((".", "!", "?", ":")) else f"{text}."
    return ended[:1].upper() + ended[1:] if re.match(r"[a-z]+(?=[\s,;:]|\.(\s|$))", ended) else ended


# --- markdown --------------------------------------------------------------------------------------------------------


def markdown(diagnosis: Diagnosis) -> str:
    """The report as one Markdown document."""
    parts = [f"# {plain(diagnosis.subject)}", *(_markdown_section(section) for section in sections(diagnosis))]
    return "\n\n".join(parts) + "\n"


def _markdown_section(section: Section) -> str:
    title = f"## {plain(section.title)}"
    entries = [_markdown_entry(place, entry) for place, entry in enumerate(section.entries, start=1)]
    tables = [_markdown_table(table) for table in section.tables]
    return "\n\n".join([title, *map(plain, section.paragraphs), *entries, *tables])


def _markdown_entry(place: int, entry: Entry) -> str:
    name = f" (`{entry.fault}`)" if entry.fault else ""
    lines = [f"### {place}. {plain(entry.title)}{name}"]
    if entry.role:
        lines.append(f"*{plain(entry.role)}*")
    if entry.facts:
        lines.append("\n".join(f"- **{plain(what)}:** {plain(sentence)}" for what, sentence in entry.facts))
    if entry.wrong or entry.right:
        both = [f"# {label}\n{code}" for label, code in (("wrong", entry.wrong), ("right", entry.right)) if code]
        lines.append("```python\n" + "\n".join(both) + "\n```")
    return "\n\n".join(lines)


def _markdown_table(table: Table) -> str:
    head = [table.columns, tuple("---" for _ in table.columns)]
    rows = [*head, *(tuple(map(plain, row)) for row in table.rows)]
    return "\n".join([f"{plain(table.caption)}:\n", *(f"| {' | '.join(row)} |" for row in rows)])


def plain(text: str) -> str:
    """Text in which Markdown and HTML see no markup, on one line."""
    return re.sub(r"([\\`*<|]|(?<!\w)_|_(?!\w)|\](?=\())", r"\\\1", " ".join(text.split()))
