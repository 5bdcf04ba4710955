"""The report only speaks: a finished diagnosis in sentences, the answer first.

`sections` is the one place where a diagnosis becomes words. Markdown, the page and the terminal only lay these sections
out, so that all three say the same. Nothing here measures or decides; every number is read off the diagnosis, and the
last section says which probe, which seed and which key of diagnosis.json it comes from.
"""

from diagnostics.diagnosis import Diagnosis
from diagnostics.report.answer import ON_A_LEVEL, answer, headline, speaking_levels, where_it_stands
from diagnostics.report.causes import cause_sections, harmless, reason, why_it_sang, why_it_stood
from diagnostics.report.document import document
from diagnostics.report.evidence import evidence, levels, verdicts
from diagnostics.report.parts import Entry, Section, Table
from diagnostics.report.repairs import after, honest_unit, left_out, steps, way
from diagnostics.report.words import ALIKE, IN_WORDS, plain, sentence, trial_in_words

__all__ = [
    "ALIKE",
    "IN_WORDS",
    "ON_A_LEVEL",
    "Entry",
    "Section",
    "Table",
    "headline",
    "honest_unit",
    "markdown",
    "plain",
    "sections",
    "speaking_levels",
    "trial_in_words",
    "where_it_stands",
]


def sections(diagnosis: Diagnosis) -> tuple[Section, ...]:
    """The whole report as plain text, the answer first; parts that have nothing to say are left out."""
    told = (
        Section(name="answer", title=headline(diagnosis), paragraphs=tuple(answer(diagnosis))),
        Section(name="seen", title="How this was seen", paragraphs=tuple(map(sentence, diagnosis.notes))),
        Section(name="why", title="Why the loss stood there", paragraphs=tuple(why_it_stood(diagnosis))),
        *cause_sections(diagnosis),
        Section(name="song", title="Why the sample contained whole lines", paragraphs=tuple(why_it_sang(diagnosis))),
        harmless(diagnosis),
        Section(name="order", title="The order of repair", entries=tuple(steps(diagnosis))),
        way(diagnosis),
        after(diagnosis),
        Section(
            name="reasons",
            title="Reasons that are no faults",
            entries=tuple(map(reason, diagnosis.explanations)),
        ),
        left_out(diagnosis),
        verdicts(diagnosis, "unclear", "Unclear", "Evidence that does not decide"),
        verdicts(diagnosis, "absent", "Ruled out", "Faults that this run does not have"),
        verdicts(diagnosis, "not tested", "Not tested", "Faults without evidence, and why"),
        levels(diagnosis),
        evidence(diagnosis),
    )
    return tuple(section for section in told if section.says_something)


def markdown(diagnosis: Diagnosis) -> str:
    """The report as one Markdown document."""
    return document(diagnosis.subject, sections(diagnosis))
