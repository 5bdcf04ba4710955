"""The page: one file that opens offline, whose links lead somewhere and whose words cannot become markup."""

import functools
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from diagnostics.diagnosis import Diagnosis
from diagnostics.report import sections
from experiments.page import linker, page
from experiments.pictures import pictures
from tests import diagnoses

EVERY_STATE = (diagnoses.stuck, diagnoses.healthy, diagnoses.unexplained, diagnoses.bare)
EMPTY = {"meta", "path", "use", "br"}  # elements that are not closed, or close themselves


class Outline(HTMLParser):
    """What a page consists of: tags, ids, links, text; and whether every element that opens also closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags[tag] += 1
        self.attributes.append((tag, named))
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src")]


@functools.cache
def full(make: Callable[[], Diagnosis]) -> str:
    diagnosis = make()
    return page(
        diagnosis, pictures(diagnosis), {"A sample": "the <lantern> & the | song", "Files": "run/diagnosis.json"}
    )


@pytest.mark.parametrize("make", EVERY_STATE)
def test_the_page_asks_for_nothing_from_outside(make: Callable[[], Diagnosis]) -> None:
    html = full(make)
    outline = Outline(html)
    assert [address for address in outline.addresses if not address.startswith("#")] == []
    assert re.search(r"(?:src|href)=[\"']?\s*(?:https?:)?//|@import|url\((?!#)", html) is None
    assert outline.tags["script"] == outline.tags["link"] == outline.tags["iframe"] == 0


@pytest.mark.parametrize("make", EVERY_STATE)
def test_every_element_closes_every_id_is_unique_and_every_link_leads_somewhere(make: Callable[[], Diagnosis]) -> None:
    outline = Outline(full(make))
    assert outline.open == []
    assert [name for name, count in Counter(outline.ids).items() if count > 1] == []
    assert {address[1:] for address in outline.addresses} <= set(outline.ids)


def test_the_page_says_what_the_sections_say() -> None:
    diagnosis = diagnoses.stuck()
    words = " ".join("".join(Outline(full(diagnoses.stuck)).words).split())
    for section in sections(diagnosis):
        for sentence in (section.title, *section.paragraphs, *(each.title for each in section.entries)):
            assert " ".join(sentence.split()) in words


def test_words_of_the_subject_stay_words() -> None:
    html = full(diagnoses.stuck)
    assert "&lt;b&gt;stuck&lt;/b&gt;" in html
    assert "<b>stuck" not in html
    assert "the &lt;lantern&gt; &amp; the | song" in html
    assert "&#39;&lt;the&gt; lantern|line" in html


def test_every_fault_id_links_to_its_card() -> None:
    outline = Outline(full(diagnoses.stuck))
    for finding in diagnoses.stuck().findings:
        assert f"card-{finding.fault.id}" in outline.ids
    assert "#card-no-final-norm" in outline.addresses


def test_an_id_inside_a_longer_word_is_no_link() -> None:
    link = linker([diagnoses.FAULTS[diagnoses.PIN]])
    assert link("a no-final-norm-layer, no-final-norm.") == (
        'a no-final-norm-layer, <a href="#card-no-final-norm">no-final-norm</a>.'
    )


def test_code_between_backticks_is_shown_as_code_and_stays_words() -> None:
    link = linker([])
    assert link("append `loss.item()`, not `<b>`") == "append <code>loss.item()</code>, not <code>&lt;b&gt;</code>"
    assert link("a lone ` stays") == "a lone ` stays"


def test_colours_of_pictures_that_are_too_dark_for_a_dark_page_follow_the_scheme() -> None:
    html = full(diagnoses.stuck)
    assert "var(--blue, #0072b2)" in html
    assert re.search(r"prefers-color-scheme: dark\) \{[^}]*--blue: #[0-9a-f]{6}; --vermilion: #[0-9a-f]{6}", html)
    assert re.search(r"[^(]#0072b2", html.replace("var(--blue, #0072b2)", "")) is None


def test_the_answer_stands_before_the_contents() -> None:
    html = full(diagnoses.stuck)
    assert html.index("The loss stands at 8.9952") < html.index('aria-label="Contents"') < html.index('id="why"')


def test_pictures_have_alternative_text_and_tables_have_headers() -> None:
    outline = Outline(full(diagnoses.stuck))
    labels = [named.get("aria-label") for tag, named in outline.attributes if named.get("role") == "img"]
    assert len(labels) == len(pictures(diagnoses.stuck()))
    assert all(labels)
    scopes = Counter(named.get("scope") for tag, named in outline.attributes if tag == "th")
    assert set(scopes) == {"col", "row"}
    assert outline.tags["caption"] == outline.tags["table"] > 0


def test_the_page_follows_the_readers_colour_scheme_and_fits_paper() -> None:
    html = full(diagnoses.bare)
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media print" in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html


def test_the_same_diagnosis_gives_the_same_page() -> None:
    diagnosis = diagnoses.healthy()
    assert page(diagnosis, pictures(diagnosis)) == page(diagnosis, pictures(diagnosis))


def test_a_page_without_pictures_and_extras_is_whole() -> None:
    outline = Outline(page(diagnoses.healthy()))
    assert outline.tags["svg"] == 0
    assert "extras" not in outline.ids
    assert "Healthy: no fault found" in "".join(outline.words)
