"""A diagnosis is plain data: it says in what state a setup is, and a file of it says where each number came from."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from diagnostics.diagnosis import CONFIRMED, ROLES, SCHEMA, Cause, Diagnosis, Milestone, to_json
from tests import diagnoses

BY_HAND: dict[str, Callable[[], Diagnosis]] = {
    "stuck": diagnoses.stuck,
    "healthy": diagnoses.healthy,
    "unexplained": diagnoses.unexplained,
    "bare": diagnoses.bare,
}


def milestone(*values: float, required: bool = True) -> Milestone:
    return Milestone(
        claim="x is below 1", values=values, bound=1.0, unit="nats per token", bound_is="one", required=required
    )


def as_a_file(diagnosis: Diagnosis) -> Any:
    """The diagnosis written to JSON that any reader takes, and read again."""
    return json.loads(json.dumps(to_json(diagnosis), allow_nan=False))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_diagnosis_comes_back_from_a_file(name: str) -> None:
    diagnosis = BY_HAND[name]()
    read = as_a_file(diagnosis)
    assert read == to_json(diagnosis)
    assert (read["schema"], read["state"]) == (SCHEMA, diagnosis.state)
    assert {field.name for field in dataclasses.fields(Diagnosis)} == set(read) - {"schema", "state"}


def test_a_loss_that_is_no_number_is_null_in_a_file() -> None:
    assert math.isnan(diagnoses.bare().standing)
    assert as_a_file(diagnoses.bare())["standing"] is None


def test_every_finding_in_a_file_names_its_probe_and_its_seed() -> None:
    findings = as_a_file(diagnoses.stuck())["findings"]
    assert len(findings) == len(diagnoses.stuck().findings)
    for finding in findings:
        assert finding["readings"]
        assert all(r["probe"] and isinstance(r["seed"], int) and r["repaired"] == [] for r in finding["readings"])


def test_a_trial_in_a_file_carries_what_follows_from_its_numbers() -> None:
    trial = diagnoses.stuck().causes[0].trials[0]
    (written,) = as_a_file(diagnoses.stuck())["causes"][0]["trials"]
    assert written["before"] == list(trial.before)
    assert (written["effect"], written["share"]) == (trial.effect, trial.share)
    assert (written["effect_error"], written["seed_spread"]) == (trial.effect_error, trial.seed_spread)
    assert written["confirms"] is trial.confirms is True


def test_a_run_in_a_file_lists_what_was_repaired_in_order() -> None:
    written = as_a_file(diagnoses.stuck())["runs"]
    assert written[-1]["repaired"] == sorted(diagnoses.stuck().runs[-1].repaired)


def test_a_present_fault_makes_a_setup_faulty_whatever_is_reached() -> None:
    assert diagnoses.stuck().state == "faulty"
    assert replace(diagnoses.stuck(), milestones=(milestone(0.5),)).state == "faulty"


def test_a_setup_without_faults_is_healthy_once_everything_required_is_reached() -> None:
    def with_milestones(*milestones: Milestone) -> Diagnosis:
        return replace(diagnoses.healthy(), milestones=milestones)

    assert with_milestones(milestone(0.5)).state == "healthy"
    assert with_milestones(milestone(0.5), milestone(2.0, required=False)).state == "healthy"
    assert with_milestones(milestone(0.5), milestone(2.0)).state == "unexplained"


def test_without_a_required_milestone_nothing_is_called_healthy() -> None:
    assert replace(diagnoses.healthy(), milestones=()).state == "unexplained"
    assert replace(diagnoses.healthy(), milestones=(milestone(0.5, required=False),)).state == "unexplained"


def test_a_deviation_alone_leaves_a_setup_healthy() -> None:
    departed = replace(diagnoses.healthy(), deviations=diagnoses.stuck().deviations)
    assert departed.deviations
    assert departed.state == "healthy"


@pytest.mark.parametrize(
    ("values", "reached"),
    [((0.5, 0.9), True), ((0.5, 1.0), False), ((0.5, 1.5), False), ((0.5, math.nan), False), ((-math.inf,), False)],
)
def test_a_milestone_is_reached_where_every_seed_is_a_number_below_the_line(
    values: tuple[float, ...], reached: bool
) -> None:
    assert milestone(*values).reached is reached


def test_a_milestone_that_nobody_measured_is_not_reached() -> None:
    assert not milestone().reached


@pytest.mark.parametrize("role", ROLES)
def test_a_cause_is_confirmed_by_the_roles_that_a_trial_gives(role: Any) -> None:
    cause = Cause(finding=diagnoses.stuck().causes[0].finding, role=role, because="said")
    assert cause.confirmed is (role in CONFIRMED)


def test_the_confirmed_causes_are_those_with_a_trial_behind_them() -> None:
    assert [cause.id for cause in diagnoses.stuck().confirmed] == [
        diagnoses.SOFTMAX,
        diagnoses.PIN,
        diagnoses.LEAK,
        diagnoses.NORM,
    ]


def test_findings_are_found_by_their_verdict() -> None:
    assert [f.fault.id for f in diagnoses.stuck().verdicts("not tested")] == [diagnoses.UNTESTED]
    assert diagnoses.bare().verdicts("present") == ()


def test_a_reading_of_a_repaired_subject_is_not_taken_for_one_of_the_subject_as_it_stands() -> None:
    behind = replace(diagnoses.LOSS_INPUTS, repaired=(diagnoses.SOFTMAX,))
    assert replace(diagnoses.stuck(), readings=(behind,)).reading("loss-inputs") is None
    assert replace(diagnoses.stuck(), readings=(behind, diagnoses.LOSS_INPUTS)).reading("loss-inputs") == (
        diagnoses.LOSS_INPUTS
    )


def test_a_level_is_found_by_name() -> None:
    unigram = diagnoses.stuck().level("unigram")
    assert unigram is not None
    assert unigram.nats == 7.21
    assert diagnoses.stuck().level("trigram") is None


def test_outcomes_are_those_with_exactly_these_repairs_one_per_seed() -> None:
    found = diagnoses.stuck().outcomes(frozenset([diagnoses.SOFTMAX]), "one batch")
    assert [(outcome.seed, outcome.final) for outcome in found] == [(0, 4.375), (1, 4.5), (2, 4.625)]
    assert diagnoses.stuck().outcomes(frozenset(["no-such-fault"]), "one batch") == ()
