"""What the report says, and that it says it where a reader looks for it."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diagnostics.diagnosis import Cause, Diagnosis, Run, to_json
from diagnostics.fault import present
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
        "moves it by "
        "0.01, a placebo moves it by 0.0033)." in answer(diagnoses.stuck())
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
        "answer", "why", "causes", "behind", "suspected", "song", "deviations", "order", "path", "after", "left-out",
        "unclear", "ruled-out", "not-tested", "levels", "evidence",
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


def test_why_the_loss_stood_there_is_a_paragraph_for_each_kind_of_confirmed_cause() -> None:
    first, pinned, behind = parts(diagnoses.stuck())["why"].paragraphs
    assert "the loss of one batch (nats per token) goes from 8.98 to 0.03" in first
    assert "The loss given so could still sink to its floor, 7.995. What keeps it above: A stack with" in pinned
    assert "Even then the loss on new text stays up, which the training loss cannot show: future-token" in behind


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
    trial = replace(stuck.causes[0].trials[0], seeds=(5,), before=(8.99,), after=(0.02,), sham=())
    one = replace(stuck, causes=(replace(stuck.causes[0], trials=(trial,)),), seeds=(5,))
    assert "(seed 5; one seed, so no error bar)" in answer(one)


def facts_of(diagnosis: Diagnosis, section: str, fault: str) -> dict[str, str]:
    """What a section tells about one fault."""
    return dict(next(entry.facts for entry in parts(diagnosis)[section].entries if entry.fault == fault))


def test_a_cause_that_shares_the_loss_with_others_is_told_with_its_share() -> None:
    told = facts_of(diagnoses.stuck(), "causes", diagnoses.SOFTMAX)
    assert told["Share"] == "Its repair takes away 88 % of the loss of one batch, averaged over orders of repair."
    assert "Share" not in facts_of(diagnoses.stuck(), "behind", diagnoses.LEAK)
    assert "no-final-norm 12 %." in " ".join(parts(diagnoses.stuck())["path"].paragraphs)


def test_a_single_cause_has_no_share_to_tell() -> None:
    stuck = diagnoses.stuck()
    alone = replace(stuck, causes=stuck.causes[:1], repair_order=(diagnoses.SOFTMAX,), path=stuck.path[:2])
    assert "Share" not in facts_of(alone, "causes", diagnoses.SOFTMAX)
    assert "Averaged over orders" not in markdown(alone)


def test_the_way_of_repairs_is_a_table_with_both_losses_and_what_came_to_light() -> None:
    (table,) = parts(diagnoses.stuck())["path"].tables
    assert table.columns == ("Repaired so far", "One batch", "Honest", "What came to light")
    assert table.rows == (
        ("nothing", "8.98", "2.5", "nothing new"),
        (diagnoses.SOFTMAX, "0.03", "12.5", "nothing new"),
        (f"+ {diagnoses.LEAK}", "0.04", "7", diagnoses.DEVIATION),
        (f"+ {diagnoses.NORM}", "0.02", "2", "nothing new"),
        (f"+ {diagnoses.PIN}", "0.01", "not run", "nothing new"),
    )
    assert "path" not in parts(diagnoses.healthy())


def test_a_way_on_which_nothing_comes_to_light_has_no_column_for_it() -> None:
    stuck = diagnoses.stuck()
    (table,) = parts(replace(stuck, path=stuck.path[:2]))["path"].tables
    assert {len(row) for row in (table.columns, *table.rows)} == {3}


def test_a_repair_that_makes_the_honest_loss_worse_at_first_is_told_with_both_numbers() -> None:
    told = parts(diagnoses.stuck())["path"].paragraphs
    (worse,) = (each for each in told if "worse at first" in each)
    assert worse.startswith(
        f"Repairing {diagnoses.SOFTMAX} makes the honest loss worse at first, from 2.5 to 12.5 nats"
    )


def test_a_cause_is_told_with_what_its_repair_hides_and_reveals() -> None:
    stuck = diagnoses.stuck()
    first = stuck.causes[0]
    worse = replace(first.trials[0], quantity=diagnoses.HONEST, before=(2.5, 2.4, 2.6), after=(12.5, 12.4, 12.6))
    hides = replace(stuck, causes=(replace(first, trials=(*first.trials, worse)), *stuck.causes[1:]))
    told = facts_of(hides, "causes", diagnoses.SOFTMAX)["Hides and reveals"]
    assert told.startswith(
        "Repaired alone, it makes things look worse: the honest held-out loss (nats per token) goes "
    )
    assert facts_of(stuck, "behind", diagnoses.LEAK)["Hides and reveals"] == (
        f"With it and what stands before it repaired, {diagnoses.DEVIATION} can be seen."
    )


def test_what_was_left_out_for_time_is_named_and_the_answer_says_so() -> None:
    stuck = diagnoses.stuck()
    assert "2 planned training runs did not fit into the time allowed" in answer(stuck)
    left = parts(stuck)["left-out"]
    assert left.title == "Left out for want of time: 2"
    assert "fresh batches with nothing repaired; one batch with future-token-leak and norm" in left.paragraphs[0]
    many = parts(replace(stuck, left_out=tuple(f"run {index}" for index in range(11))))["left-out"].paragraphs[0]
    assert "run 5; and 5 others (left_out in diagnosis.json)" in many
    assert "run 6" not in many
    assert "left-out" not in parts(diagnoses.healthy())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("no-final-norm", "If the loss of one fixed batch falls lower after the same number of steps"),
        ("future-token-leak", "If new text, each token predicted from what stands before it alone, gets a lower loss"),
        ("evaluated-in-train-mode", "If the validation loss of the very same weights changes"),
        ("history-keeps-the-graph", "If what costs memory or bookkeeping now is gone"),
    ],
)
def test_a_suspect_is_told_with_the_experiment_that_its_card_suggests(fault: str, expected: str) -> None:
    stuck = diagnoses.stuck()
    suspect = Cause(finding=diagnoses.finding(fault, present("seen")), role="not confirmed", because="no trial")
    told = facts_of(replace(stuck, causes=(suspect,), repair_order=()), "suspected", fault)["Try it yourself"]
    remedy = suspect.finding.fault.card.sections["Remedy"].rstrip(".")
    assert told.startswith(f"Change your own code: {remedy}. Then run both versions again, from the same two seeds")
    assert expected in told


@pytest.mark.parametrize(
    ("role", "in_the_answer", "in_the_why"),
    [
        ("flatters the loss", "Confirmed to make the training loss look better", "The training loss looks better than"),
        ("slows learning", "Confirmed to slow learning down: no-final-norm.", "Learning is slow: A stack with norms"),
        ("misleads the evaluation", "Confirmed to mislead the setup's own validation", "The validation loss is not"),
    ],
)
def test_each_role_is_told_in_the_answer_and_in_the_why(role: Any, in_the_answer: str, in_the_why: str) -> None:
    stuck = diagnoses.stuck()
    second = replace(stuck.causes[1], role=role)
    changed = replace(stuck, causes=(stuck.causes[0], second, *stuck.causes[2:]))
    assert in_the_answer in answer(changed)
    assert any(paragraph.startswith(in_the_why) for paragraph in parts(changed)["why"].paragraphs)
    assert [entry.fault for entry in parts(changed)["causes"].entries] == [diagnoses.SOFTMAX, diagnoses.PIN]


def test_losses_that_are_compared_on_the_way_are_told_with_their_step() -> None:
    stuck = diagnoses.stuck()
    slow = replace(stuck.causes[0], role="slows learning", trials=(replace(stuck.causes[0].trials[0], steps=17),))
    assert "goes from 8.98 to 0.03 in the same 17 steps with nothing else" in answer(replace(stuck, causes=(slow,)))


def test_what_the_training_loss_hides_needs_no_article() -> None:
    stuck = diagnoses.stuck()
    trial = replace(stuck.causes[0].trials[0], quantity="what the training loss hides (nats per token)")
    told = answer(replace(stuck, causes=(replace(stuck.causes[0], role="flatters the loss", trials=(trial,)),)))
    assert "Confirmed by removing it: what the training loss hides (nats per token) goes from 8.98" in told


def test_a_run_that_diverges_without_the_repair_is_told_without_numbers_that_it_does_not_have() -> None:
    stuck = diagnoses.stuck()
    trial = replace(stuck.causes[0].trials[0], before=(math.nan, math.inf, math.nan), sham=())
    told = answer(replace(stuck, causes=(replace(stuck.causes[0], trials=(trial,)),)))
    assert "goes from no number (the run diverges) to 0.03 with nothing else repaired" in told
    assert "(seeds 0, 1, 2; every run diverges without the repair, none with it)" in told
    assert markdown(replace(stuck, causes=(replace(stuck.causes[0], trials=(trial,)),)))


def test_a_loss_that_a_repair_raises_because_it_was_flattered_is_called_too_good_before() -> None:
    stuck = diagnoses.stuck()
    trial = replace(stuck.causes[0].trials[0], before=(0.02, 0.03, 0.04), after=(5.5, 5.6, 5.7), sham=())
    flattered = replace(stuck, causes=(replace(stuck.causes[0], role="flatters the loss", trials=(trial,)),))
    assert "moves it by 0.1); it was too good to be true." in answer(flattered)
    assert "Hides and reveals" not in facts_of(flattered, "causes", diagnoses.SOFTMAX)


def test_a_repair_that_does_no_more_than_a_placebo_is_called_so() -> None:
    stuck = diagnoses.stuck()
    trial = replace(stuck.causes[0].trials[0], sham=(0.02, 0.03, 0.04))
    idle = replace(stuck.causes[0], role="no effect here", trials=(trial,))
    told = facts_of(replace(stuck, causes=(idle,), repair_order=()), "unconfirmed", diagnoses.SOFTMAX)
    assert "a placebo moves it by 9)" in told["Removed: a placebo does as much"]
    assert "Try it yourself" in told  # a proof, whatever the trial says


def test_signs_and_departures_that_trials_found_harmless_are_told_as_measured_harmless_here() -> None:
    stuck = diagnoses.stuck()
    sign = replace(stuck.deviations[0], finding=diagnoses.finding("embedding-scale", present("an RMS of 16.5")))
    section = parts(replace(stuck, deviations=(sign, *stuck.deviations)))["deviations"]
    assert section.title == "Measured harmless here"
    assert [entry.role for entry in section.entries] == [
        "a sign that often means trouble; measured harmless here", "departs from the recipe; measured harmless here"
    ]  # fmt: skip


def test_a_departure_that_nobody_tried_is_not_called_measured() -> None:
    untried = replace(diagnoses.stuck().deviations[0], role="not confirmed", trials=())
    section = parts(replace(diagnoses.healthy(), deviations=(untried,)))["deviations"]
    assert section.title == "Harmless here, as far as is known"
    assert section.entries[0].role.endswith("; not tried: nothing is wrong here that it could explain")
    assert "Try it yourself" not in dict(section.entries[0].facts)


def test_a_healthy_run_with_a_harmless_sign_is_not_said_to_have_none() -> None:
    sign = diagnoses.finding("embedding-scale", present("an RMS of 16.5"))
    harmless = replace(diagnoses.stuck().deviations[0], finding=sign)
    healthy = replace(diagnoses.healthy(), findings=(*diagnoses.healthy().findings, sign), deviations=(harmless,))
    told = parts(healthy)["answer"].paragraphs[0]
    assert told == "None of the 3 faults looked for holds anything up here (2 ruled out, 1 measured harmless here)."


def test_what_no_loss_shows_is_found_and_not_suspected() -> None:
    cause = Cause(
        finding=diagnoses.finding(diagnoses.UNTESTED, present("3 nodes")), role="no loss shows it", because=""
    )
    told = parts(replace(diagnoses.stuck(), causes=(cause,), repair_order=()))["answer"]
    assert told.title.startswith("Found, though no loss shows it: The recorded losses keep")
    assert "What was found is history-keeps-the-graph" in " ".join(told.paragraphs)


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


def test_a_long_measured_text_is_cut() -> None:
    long = replace(diagnoses.LOSS_INPUTS, measurement=replace(diagnoses.Measured(), function="ab" * 37))
    readings = parts(replace(diagnoses.stuck(), readings=(long,)))["evidence"].tables[0]
    assert readings.rows[0][3].startswith(f"function '{'ab' * 30}...', rows 7")


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
