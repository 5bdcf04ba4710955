"""The report in a terminal and in a pipe."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from diagnostics.diagnosis import Diagnosis
from experiments.terminal import render, report_console
from tests import diagnoses

EVERY_STATE = (diagnoses.stuck, diagnoses.healthy, diagnoses.unexplained, diagnoses.bare)


def piped(diagnosis: Diagnosis) -> str:
    target = io.StringIO()
    render(diagnosis, Console(file=target, width=80, highlight=False))
    return target.getvalue()


@pytest.mark.parametrize("make", EVERY_STATE)
def test_a_pipe_gets_plain_lines_of_at_most_eighty_columns(make: Callable[[], Diagnosis]) -> None:
    text = piped(make())
    assert "\x1b" not in text
    assert [line for line in text.splitlines() if len(line) > 80 or line != line.rstrip()] == []


def test_the_answer_comes_first() -> None:
    assert piped(diagnoses.stuck()).splitlines()[0] == (
        "FAULTY  Probabilities are handed to a cross-entropy that expects logits"
    )
    assert piped(diagnoses.healthy()).startswith("HEALTHY  ")
    assert piped(diagnoses.unexplained()).startswith("UNEXPLAINED  ")


def test_causes_are_told_with_their_trial_and_evidence() -> None:
    words = " ".join(piped(diagnoses.stuck()).split())
    assert "1. softmax-before-cross-entropy: Probabilities are handed" in words
    assert "goes from 8.98 to" in words
    assert "evidence of softmax-before-cross-entropy with a number of 0.375" in words.replace(
        "Evidence of", "evidence of"
    )


def test_the_repairs_are_numbered_in_their_order() -> None:
    text = piped(diagnoses.stuck())
    order = text[text.index("The order of repair") :]
    places = [order.index(f"{place}. {name}") for place, name in enumerate(diagnoses.stuck().repair_order, start=1)]
    assert places == sorted(places)


def test_what_was_ruled_out_takes_one_line_each_and_the_rest_is_told_in_full() -> None:
    lines = piped(diagnoses.stuck()).splitlines()
    ruled_out = lines.index(next(line for line in lines if line.startswith("Ruled out: 1")))
    assert lines[ruled_out + 1] == "- batch-coupling: Other samples move by 0.0 of 6.6."
    assert lines[ruled_out + 2] == ""
    assert "- history-keeps-the-graph: This subject has no history." in lines


def test_words_in_brackets_are_no_markup() -> None:
    assert "'<the> lantern|line" in piped(diagnoses.stuck())


def test_a_terminal_gets_colours() -> None:
    target = io.StringIO()
    render(diagnoses.healthy(), Console(file=target, width=80, force_terminal=True, color_system="standard"))
    assert "\x1b[1;32mHEALTHY" in target.getvalue()


def test_a_pipe_that_knows_only_ascii_gets_what_it_can_hold() -> None:
    raw = io.BytesIO()
    target = io.TextIOWrapper(raw, encoding="ascii")
    diagnosis = diagnoses.bare()
    render(diagnosis, Console(file=target, width=80))
    target.flush()
    assert raw.getvalue().startswith(b"UNEXPLAINED  ")


def test_a_report_on_standard_output_is_eighty_columns_wide_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_console().width == 80
    render(diagnoses.stuck())
    assert max(map(len, capsys.readouterr().out.splitlines())) == 80


def test_the_way_of_repairs_is_a_line_for_each_with_both_losses() -> None:
    lines = [line.split() for line in piped(diagnoses.stuck()).splitlines()]
    assert ["Repaired", "so", "far", "One", "batch", "Honest"] in lines
    assert ["nothing", "8.98", "2.5"] in lines
    assert [diagnoses.SOFTMAX, "0.03", "12.5"] in lines
    assert ["reveals", diagnoses.DEVIATION] in lines
    assert ["reveals", "nothing", "new"] not in lines
