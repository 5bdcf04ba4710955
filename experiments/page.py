"""The report as one HTML file that opens offline: sections, pictures, and a card for every fault it names.

What is said comes from `diagnostics.report.sections`; this file only lays it out. The page makes no request: styles and
pictures stand in it, there are no scripts.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from diagnostics.diagnosis import Diagnosis
from diagnostics.fault import Fault
from diagnostics.report import headline, sections
from experiments.layout import ENVIRONMENT
from experiments.pictures import BLUE, VERMILION, Picture, svg

PLACES = {
    "standing-loss": "answer",
    "one-batch": "causes",
    "switch-table": "behind",
    "repair-path": "path",
    "milestones": "after",
    "fresh-batches": "after",
}
"""Which section shows a picture; all others stand in a section of their own."""

BY_SCHEME = {"blue": BLUE, "vermilion": VERMILION}
"""Colours of the pictures that are too dark on a dark page: its style sheet has lighter ones for it."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A picture as it stands in the page: the element and its words."""

    name: str
    title: str
    caption: str
    alt: str
    element: Markup


def page(diagnosis: Diagnosis, pictures: Sequence[Picture] = (), extras: Mapping[str, str] | None = None) -> str:
    """The report as one self-contained HTML document.

    Args:
        pictures: such as `experiments.pictures.pictures` gives; more may be added, each stands where it belongs.
        extras: title -> plain text that is shown as it is, such as a sample or where the files of the run are.
    """
    told = sections(diagnosis)
    names = {section.name for section in told}
    drawn = [_drawn(picture) for picture in pictures]
    placed = {name: [each for each in drawn if PLACES.get(each.name) == name] for name in names}
    faults = [finding.fault for finding in diagnosis.findings]
    return ENVIRONMENT.get_template("report.html.j2").render(
        subject=diagnosis.subject,
        state=diagnosis.state,
        headline=headline(diagnosis),
        sections=told,
        placed=placed,
        others=[each for each in drawn if PLACES.get(each.name) not in names],
        extras=extras or {},
        faults=faults,
        link=linker(faults),
    )


def linker(faults: Iterable[Fault]) -> Callable[[str], Markup]:
    """text -> the text, escaped, in which every fault id links to the card of that fault and `x` is code."""
    ids = sorted((fault.id for fault in faults), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, ids))})(?![\w-])" if ids else "((?!))")

    def linked(text: str) -> Markup:
        escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
        return Markup(pattern.sub(r'<a href="#card-\1">\1</a>', escaped))  # escaped just before

    return linked


def _drawn(picture: Picture) -> Drawn:
    element = svg(picture.figure, picture.name)  # matplotlib escapes the words in it
    for name, colour in BY_SCHEME.items():
        element = element.replace(colour, f"var(--{name}, {colour})")
    return Drawn(
        name=picture.name, title=picture.title, caption=picture.caption, alt=picture.alt, element=Markup(element)
    )
