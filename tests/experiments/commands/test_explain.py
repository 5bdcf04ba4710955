"""`unplateau explain` and `unplateau faults`: every card can be read."""

import json

import pytest

from diagnostics.fault import HEADINGS
from diagnostics.faults import CATALOGUE
from diagnostics.schema import json_schema, schema_page
from experiments.catalogue import catalogue_markdown


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: fault.id)
def test_every_card_is_shown_whole(fault, run) -> None:
    ended = run("explain", fault.id)
    text = " ".join(ended.out.split())
    assert ended.code == 0
    assert ended.out.startswith(f"{fault.id}  ({fault.family}, {fault.grade})\n{fault.card.title}\n")
    assert all(f"\n{heading}\n" in ended.out for heading in HEADINGS)
    wanted = [*fault.card.sections.values(), fault.wrong, fault.right]
    wanted += [remedy.does for remedy in fault.remedies] + [probe.question for probe in fault.measured_by]
    assert all(" ".join(each.split()) in text for each in wanted)
    assert ended.out.splitlines()[-1].startswith("next        unplateau ")


def test_underscores_and_capitals_are_forgiven(run) -> None:
    assert run("explain", "Softmax_Before_Cross_Entropy").out == run("explain", "softmax-before-cross-entropy").out


def test_an_unknown_fault_is_refused_with_the_nearest(run) -> None:
    ended = run("explain", "softmax-before-crossentropy")
    assert ended.code == 2
    assert ended.err == (
        "unplateau: no fault 'softmax-before-crossentropy'; did you mean 'softmax-before-cross-entropy'?\n"
    )


def test_a_pipe_gets_every_fault_on_a_line(run) -> None:
    lines = run("faults").out.splitlines()
    assert [line.split()[:3] for line in lines] == [[each.id, each.family, each.grade] for each in CATALOGUE]
    assert all(line.endswith(each.card.title) for line, each in zip(lines, CATALOGUE, strict=True))


def test_filters_apply_together(run) -> None:
    lines = run("faults", "--family", "model", "--grade", "proof").out.splitlines()
    wanted = [each.id for each in CATALOGUE if (each.family, each.grade) == ("model", "proof")]
    assert [line.split()[0] for line in lines] == wanted != []


@pytest.mark.parametrize(("option", "value", "near"), [("--family", "modle", "model"), ("--grade", "prof", "proof")])
def test_an_unknown_filter_is_refused_with_the_nearest(option, value, near, run) -> None:
    ended = run("faults", option, value)
    assert ended.code == 2
    assert ended.err.endswith(f"did you mean {near!r}?\n")


def test_a_terminal_gets_families_with_their_faults(run, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    ended = run("faults")
    assert all(f"  {each.id}  ({each.grade})\n" in ended.out for each in CATALOGUE)
    assert ended.err == "next        unplateau explain FAULT\n"


def test_the_page_of_the_catalogue_goes_to_the_output_and_nothing_else(run) -> None:
    assert run("faults", "--markdown").out == catalogue_markdown(CATALOGUE)
    proofs = [fault for fault in CATALOGUE if fault.grade == "proof"]
    assert run("faults", "--grade", "proof", "--markdown").out == catalogue_markdown(proofs)


def test_the_schema_of_a_diagnosis_is_written_for_programs_and_for_people(run) -> None:
    assert json.loads(run("explain", "--schema", "json").out) == json_schema()
    assert run("explain", "--schema", "markdown").out == schema_page()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "explain takes one FAULT (unplateau faults lists them), or --schema"),
        (("no-warm-up", "--schema", "json"), "explain takes one FAULT (unplateau faults lists them), or --schema"),
        (("--schema", "jason"), "no schema 'jason'; did you mean 'json'?"),
    ],
)
def test_what_cannot_be_explained_is_one_line(arguments, message, run) -> None:
    ended = run("explain", *arguments)
    assert (ended.code, ended.err) == (2, f"unplateau: {message}\n")
