"""The page of the catalogue: made from the cards, complete, linked, and never stale."""

import re
from pathlib import Path

import pytest

from diagnostics.fault import HEADINGS
from diagnostics.faults import CATALOGUE
from experiments.catalogue import COMMAND, catalogue_markdown, linker

PAGE = Path(__file__).parents[2] / "docs" / "catalogue.md"
WHOLE = catalogue_markdown(CATALOGUE)


def card_of(fault_id: str) -> str:
    """The part of the page about one fault."""
    return WHOLE.split(f"\n## {fault_id}\n")[1].split("\n## ")[0]


def test_the_page_in_the_docs_is_not_stale() -> None:
    assert PAGE.read_text() == WHOLE, f"docs/catalogue.md is stale; write it again: {COMMAND}"


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: fault.id)
def test_the_page_has_the_whole_card_of(fault) -> None:
    card = card_of(fault.id)
    assert f"| [{fault.id}](#{fault.id}) | {fault.family} | {fault.grade} |" in WHOLE
    assert all(re.search(rf"^- \*\*{heading}:\*\* \S", card, re.MULTILINE) for heading in HEADINGS)
    assert all(probe.name in card and probe.question in card for probe in fault.measured_by)
    assert all(
        f"# {label}\n{code.strip()}\n```" in card for label, code in (("wrong", fault.wrong), ("right", fault.right))
    )
    assert all(f"[{near}](#{near})" in card for near in fault.looks_like if near in fault.card.sections["Looks like"])


def test_every_link_leads_to_a_card() -> None:
    anchors = {line.removeprefix("## ") for line in WHOLE.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\]\(#([^)]+)\)", WHOLE)) == anchors == {fault.id for fault in CATALOGUE}


def test_code_in_the_page_is_python() -> None:
    for block in re.findall(r"^```python\n(.*?)^```", WHOLE, re.MULTILINE | re.DOTALL):
        compile(block, "docs/catalogue.md", "exec")


def test_an_id_inside_a_longer_word_is_no_link() -> None:
    linked = linker([fault for fault in CATALOGUE if fault.id == "no-warm-up"])
    assert linked("no-warm-up-here, no-warm-up.") == "no-warm-up-here, [no-warm-up](#no-warm-up)."
    assert linker([])("no-warm-up") == "no-warm-up"
