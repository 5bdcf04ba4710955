"""The catalogue of faults as one Markdown document: a table of them all, then each card with its code.

It is made from ``diagnostics.faults.CATALOGUE`` alone: ``unplateau faults --markdown > docs/catalogue.md`` writes the
one that is kept, and a test fails where that is stale.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from diagnostics.fault import Fault
from diagnostics.report import plain

COMMAND = "unplateau faults --markdown > docs/catalogue.md"
GRADES = """\
*Proof*: cannot happen in a healthy setup. *Sign*: suggests. *Deviation*: departs from the recipe, harmless unless a
trial says otherwise. *Explanation*: a reason that is no fault."""
CONCERNS = {
    "fit": "the loss of one batch",
    "honesty": "the loss on new text, computed in the way the model generates",
    "evaluation": "the validation loss as the setup computes it",
    "neither": "no loss: it costs memory, bookkeeping or text",
}


def catalogue_markdown(faults: Sequence[Fault]) -> str:
    """The whole document."""
    linked = linker(faults)
    intro = (
        f"# The catalogue: {len(faults)} faults\n\n"
        f"Made by `{COMMAND}`; edit the docstrings in `diagnostics/faults/` instead of this page.\n\n{GRADES}\n\n"
        "`unplateau explain FAULT` shows one card in a terminal."
    )
    return "\n\n".join([intro, contents(faults), *(card(fault, linked) for fault in faults)]) + "\n"


def contents(faults: Sequence[Fault]) -> str:
    """A table with a line for each fault, linked to its card."""
    rows = [f"| [{each.id}](#{each.id}) | {each.family} | {each.grade} | {plain(each.card.title)} |" for each in faults]
    return "\n".join(["| fault | family | grade | what is wrong |", "|---|---|---|---|", *rows])


def card(fault: Fault, linked: Callable[[str], str]) -> str:
    """One fault: title, what kind it is, every heading of its card, its probes and remedies, wrong and right code."""
    shown = "" if fault.grade == "explanation" else f" · its removal shows in {CONCERNS[fault.concerns]}"
    about = f"{fault.family} · {fault.grade}{shown}"
    lines = "\n".join(f"- **{heading}:** {linked(text)}" for heading, text in told(fault))
    codes = [f"```python\n# {label}\n{code.strip()}\n```" for label, code in wrong_and_right(fault)]
    return "\n\n".join([f"## {fault.id}", plain(fault.card.title), f"*{about}*", lines, *codes])


def told(fault: Fault) -> Iterator[tuple[str, str]]:
    """Headings and texts of a card: its own, then its probes, its remedies and its neighbours, by name."""
    yield from fault.card.sections.items()
    yield "Probes", "; ".join(f"{probe.name} ({probe.cost}): {probe.question}" for probe in fault.measured_by)
    if fault.remedies:
        yield "Applied by unplateau", "; ".join(f"{remedy.name}: we {remedy.does}" for remedy in fault.remedies)
    if fault.follows_from:
        yield "A mere consequence of", ", ".join(fault.follows_from)


def wrong_and_right(fault: Fault) -> Iterator[tuple[str, str]]:
    """The examples that the fault has."""
    yield from ((label, code) for label, code in (("wrong", fault.wrong), ("right", fault.right)) if code.strip())


def linker(faults: Sequence[Fault]) -> Callable[[str], str]:
    """text -> the same text as Markdown, in which every fault id links to its card."""
    ids = sorted((fault.id for fault in faults), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, ids))})(?![\w-])") if ids else re.compile("((?!))")
    return lambda text: pattern.sub(r"[\1](#\1)", plain(text))
