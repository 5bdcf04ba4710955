"""What the report says, and that it says it where a reader looks for it."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diagnostics.diagnosis import Diagnosis, Run, to_json
from diagnostics.report import Section, markdown, sections
from diagnostics.trial import Outcome
from tests import diagnoses

EVERY_STATE = (diagnoses.stuck, diagnoses.healthy, diagnoses.unexplained, diagnoses.bare)


def parts(diagnosis: Diagnosis) -> dict[str, Section]:
    return {section.name: section for section in sections(diagnosis)}


def answer(diagnosis: Diagnosis) -> str:
    return " ".join(parts(diagnosis)["answer"].paragraphs)


def test_the_answer_comes_first_and_tells_the_ceiling_from_ln_v() -> None:
    first = sections(diagnoses.stuck())[0]
    assert (first.name, first.title) == ("answer", "Probabilities are handed to a cross-entropy that expects logits")
    assert first.paragraphs[0].startswith(
        "The loss stands at 8.9952 nats per token: not ln V, the loss of a uniform guess (8.9950) but 2e-4 above it, "
        "5e-5 below the ceiling of a loss that is given probabilities (8.9953)."
    )


def test_a_loss_a_few_lucky_guesses_below_the_ceiling_is_still_not_called_ln_v() -> None:
    told = answer(replace(diagnoses.stuck(), standing=8.9925))
    assert "not ln V, the loss of a uniform guess (8.9950) but 0.0025 below it, 0.0028 below the ceiling" in told


def test_the_answer_names_what_confirmed_the_cause_with_its_seeds_and_spread() -> None:
    assert (
        "The first cause is softmax-before-cross-entropy. Confirmed by removing it: the loss of one batch (nats per "
        "token) goes from 8.98 to 0.03 with nothing else repaired (seeds 0, 1, 2; paired error 0.012, a seed alone "
        "moves it by 0.01)." in answer(diagnoses.stuck())
    )


def test_the_answer_goes_on_with_what_hides_behind_the_repairs_and_what_they_reach() -> None:
    told = answer(diagnoses.stuck())
    assert (
        "Hidden behind, where removing them pays only once the rest is repaired: future-token-leak and norm-over"
        in told
    )
    assert "Repair in this order: softmax-before-cross-entropy, then future-token-leak, then norm-over" in told
    assert "After that, one batch is learned: 0.01, 0.01125, 0.0125 nats per token (seeds 0, 1, 2), below" in told


def test_a_run_that_hands_over_logits_is_never_compared_with_the_double_softmax_levels() -> None:
    told = answer(diagnoses.healthy())
    assert "ceiling" not in told
    assert "2e-4 above ln V, the loss of a uniform guess (8.9950)" in told


@pytest.mark.parametrize(
    ("standing", "words"),
    [
        (8.0, "between ln V, the loss of a uniform guess (8.9950) and the entropy of the token frequencies (7.2100)"),
        (9.5, "above every reference level; the highest is ln V"),
        (1.5, "below every reference level; the lowest is the entropy of the token frequencies (7.2100)"),
        (7.2100, "on the entropy of the token frequencies (7.2100)"),
        (math.nan, "The loss is not a number."),
    ],
)
def test_the_standing_loss_is_placed_among_the_levels(standing: float, words: str) -> None:
    assert words in answer(replace(diagnoses.unexplained(), standing=standing))


def test_sections_come_in_the_order_in_which_a_reader_needs_them() -> None:
    told = [section.name for section in sections(diagnoses.stuck())]
    assert told == [
        "answer", "why", "causes", "behind", "unconfirmed", "song", "deviations", "order", "after", "unclear",
        "ruled-out", "not-tested", "levels", "evidence",
    ]  # fmt: skip


def test_causes_stand_apart_from_what_hides_behind_them_and_from_harmless_deviations() -> None:
    told = parts(diagnoses.stuck())
    found = {name: [entry.fault for entry in told[name].entries] for name in ("causes", "behind", "deviations")}
    assert found == {
        "causes": [diagnoses.SOFTMAX, diagnoses.PIN],
        "behind": [diagnoses.LEAK, diagnoses.NORM],
        "deviations": [diagnoses.DEVIATION],
    }


def test_a_redundant_pair_is_told_once_with_its_joint_repair() -> None:
    behind = parts(diagnoses.stuck())["behind"]
    assert len(behind.paragraphs) == 1
    assert "repairing one of them alone gains nothing, repairing them together does" in behind.paragraphs[0]
    assert dict(behind.entries[0].facts)["Repair together with"] == "norm-over-the-wrong-axis."


def test_every_finding_is_told_somewhere_outside_the_appendix() -> None:
    diagnosis = diagnoses.stuck()
    told = " ".join(map(repr, (section for section in sections(diagnosis) if not section.appendix)))
    assert [each.fault.id for each in diagnosis.findings if each.fault.id not in told] == []


def test_why_the_loss_stood_there_is_one_paragraph_from_the_confirmed_causes() -> None:
    (paragraph,) = parts(diagnoses.stuck())["why"].paragraphs
    assert "the loss of one batch (nats per token) goes from 8.98 to 0.03" in paragraph
    assert "The loss given so could still sink to its floor, 7.995. What keeps it above: A stack with" in paragraph
    assert "Even then the loss on new text stays up, which the training loss cannot show: future-token" in paragraph


def test_why_the_sample_contained_lines_quotes_the_longest_tokens() -> None:
    (paragraph,) = parts(diagnoses.stuck())["song"].paragraphs
    assert "the longest '<the> lantern|line\\n'" in paragraph
    assert "song" not in parts(diagnoses.healthy())


def test_a_healthy_run_is_called_healthy_with_the_numbers_that_say_so() -> None:
    told = parts(diagnoses.healthy())
    assert told["answer"].title == "Healthy: no fault found"
    assert told["answer"].paragraphs[0] == "None of the 2 faults looked for is present (2 ruled out)."
    assert "One batch is learned: 0.01, 0.01125" in told["answer"].paragraphs[1]
    assert {"causes", "behind", "why", "order"}.isdisjoint(told)
    assert told["after"].title == "What holds as it stands"


def test_an_unexplained_run_is_called_so_and_says_what_to_try() -> None:
    told = parts(diagnoses.unexplained())["answer"]
    assert told.title.startswith("Unexplained")
    advice = " ".join(told.paragraphs)
    assert "This is missed: one batch is learned: 0.75" in advice
    assert "It may be no fault: The loss still falls by 0.03 per 100 steps." in advice
    assert "Look first at what the evidence leaves open: position-blind." in advice
    assert "1 fault could not be tested; make that possible: this subject has no history." in advice
    assert "give the trials more steps (Budget.one_batch_steps and fresh_steps)" in advice


def test_a_suspect_that_no_trial_confirmed_is_not_called_a_cause() -> None:
    stuck = diagnoses.stuck()
    told = parts(replace(stuck, causes=stuck.causes[-1:], repair_order=()))
    assert told["answer"].title.startswith("Suspected, not confirmed: ")
    said = " ".join(told["answer"].paragraphs)
    assert "No cause could be confirmed by removing it" in said
    assert f"Repair {diagnoses.SONG} too: a sound setup cannot have this" in said
    assert {"causes", "why"}.isdisjoint(told)


def test_one_seed_has_no_error_bar() -> None:
    stuck = diagnoses.stuck()
    trial = replace(stuck.causes[0].trials[0], seeds=(5,), before=(8.99,), after=(0.02,))
    one = replace(stuck, causes=(replace(stuck.causes[0], trials=(trial,)),), seeds=(5,))
    assert "(seed 5; one seed, so no error bar)" in answer(one)


def at(plain: Any, key: str) -> Any:
    """The value under a key such as ``causes[0].trials[1]``."""
    for name, index in re.findall(r"(\w+)(?:\[(\d+)\])?", key):
        plain = plain[name] if index == "" else plain[name][int(index)]
    return plain


def test_every_key_in_the_evidence_leads_to_its_numbers_in_the_json() -> None:
    diagnosis = diagnoses.stuck()
    plain = to_json(diagnosis)
    readings, trials = parts(diagnosis)["evidence"].tables
    taken = [row for row in readings.rows if row[-1].startswith("readings")]
    assert [at(plain, row[-1]) is None for row in taken] == [False, True]
    assert [at(plain, row[-1])["question"] for row in trials.rows] == [row[0] for row in trials.rows]
    assert len(trials.rows) == 5


def test_evidence_that_came_to_light_behind_other_faults_is_listed_with_its_finding() -> None:
    readings = parts(diagnoses.stuck())["evidence"].tables[0]
    assert [row[-1] for row in readings.rows[2:]] == [
        "findings[2].numbers, after the other repairs",
        "findings[3].numbers, after the other repairs",
    ]


def test_measured_facts_are_printed_and_long_lists_counted() -> None:
    readings = parts(diagnoses.stuck())["evidence"].tables[0]
    assert readings.rows[0][3] == (
        "function 'cross_entropy', rows 7, smallest -1.25, missing None, many (7 entries), few ('<a>', 'b|c'), "
        "depth (3 entries)"
    )
    assert readings.rows[1][3] == "nothing: this subject has no history"


def test_a_run_that_raised_is_listed_with_what_it_raised() -> None:
    failed = Outcome(regime="one batch", seed=2, failure="RuntimeError: <shape> 3|5")
    diagnosis = replace(diagnoses.stuck(), runs=(Run(repaired=frozenset(), outcome=failed),))
    table = parts(diagnosis)["evidence"].tables[-1]
    assert table.rows == (("nothing", "one batch", "2", "RuntimeError: <shape> 3|5"),)


@pytest.mark.parametrize("make", EVERY_STATE)
def test_markdown_tables_keep_their_columns_and_hold_no_markup_of_the_subject(make: Callable[[], Diagnosis]) -> None:
    text = markdown(make())
    assert re.search(r"(?<!\\)<", text.replace("```", "")) is None
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1


def test_markdown_shows_wrong_and_right_code() -> None:
    text = markdown(diagnoses.stuck())
    assert "# wrong\nprobabilities = logits.softmax(-1)" in text
    assert "# right\nloss = F.cross_entropy(logits, targets)" in text


def test_a_bare_diagnosis_says_that_nothing_shows_that_the_setup_learns() -> None:
    assert "none was judged" in answer(diagnoses.bare())
    assert "No training run was made" in answer(diagnoses.bare())
