"""The benchmark of faults: its cases, and that a stopped run loses nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import faults
from experiments.benchmarks.cases import (
    CALIBRATION,
    FAULTS,
    REPORTED,
    Case,
    healthy_cases,
    make,
    pair_cases,
    planted_cases,
    related,
)
from experiments.benchmarks.faults import Plan
from experiments.benchmarks.scores import Record
from experiments.benchmarks.subjects import HEALTHY

SMALL = Plan(subjects=("mlp", "regression"), faults=("softmax-before-cross-entropy",), healthy=3, pairs=0)


def told(case: Case) -> Record:
    """A record without an examination."""
    return Record(key=case.key, kind=case.kind, subject=case.subject, planted=case.faults)


def test_the_subjects_are_split_in_halves() -> None:
    assert sorted((*CALIBRATION, *REPORTED)) == sorted(HEALTHY)
    assert len(CALIBRATION) == len(REPORTED)


def test_at_least_a_hundred_healthy_variants_are_all_different_and_always_the_same() -> None:
    cases = healthy_cases(120, tuple(HEALTHY))
    assert cases == healthy_cases(120, tuple(HEALTHY))
    assert len({case.key for case in cases}) == 120
    assert {case.subject for case in cases} == set(HEALTHY)
    assert {case.optimizer for case in cases} == {"adamw", "adam", "rmsprop", "sgd"}


@pytest.mark.parametrize("case", healthy_cases(12, tuple(HEALTHY)), ids=lambda case: case.key.replace(" ", "_"))
def test_a_healthy_variant_can_be_made_and_has_a_loss(case: Case) -> None:
    subject = make(replace(case, trained=min(case.trained, 3)))
    assert torch.isfinite(subject.loss(subject.model, next(subject.batches(0))))
    assert (subject.history is not None) == (case.trained > 0)


def test_another_seed_is_another_model_on_other_data() -> None:
    one, same, other = (make(Case(kind="healthy", subject="gru", seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(next(one.batches(0)), next(same.batches(0)))
    assert not torch.equal(next(one.batches(0)), next(other.batches(0)))
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))


def test_every_fault_with_a_planting_is_planted_everywhere_for_each_seed() -> None:
    cases = planted_cases(2, ("gru", "mlp"), ("future-token-leak", "no-output-projection"))
    assert len(cases) == 2 * 2 * (1 + (FAULTS["no-output-projection"].plant is not None))
    assert len({case.key for case in cases}) == len(cases)


def test_pairs_can_be_carried_and_neither_follows_from_the_other() -> None:
    ids = ("softmax-before-cross-entropy", "embedding-scale", "batch-coupling", "norm-over-the-wrong-axis")
    cases = list(pair_cases(3, ("encoder-decoder",), ids))
    assert len(cases) == 3
    assert all(make(case) for case in cases)
    assert not any(related(*(FAULTS[each] for each in case.faults)) for case in cases)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no subject 'gruu'; did you mean 'gru'"):
        replace(SMALL, subjects=("gruu",))
    with pytest.raises(ValueError, match="no fault 'future-token-lea'; did you mean 'future-token-leak'"):
        replace(SMALL, faults=("future-token-lea",))


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def counted(case: Case) -> Record:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(case.key)
        return told(case)

    monkeypatch.setattr(faults, "diagnosed", counted)
    with pytest.raises(KeyboardInterrupt):
        faults.run(SMALL, tmp_path, workers=1)
    with (tmp_path / "cases.jsonl").open("a") as file:
        file.write('{"key": "cut off')
    assert len(faults.read_records(tmp_path / "cases.jsonl")) == 3
    first = list(made)
    monkeypatch.setattr(faults, "diagnosed", told)
    told_of: list[tuple[int, int]] = []
    records = faults.run(SMALL, tmp_path, workers=1, on_done=lambda *at: told_of.append(at))
    assert [record.key for record in records[:3]] == first
    assert sorted(record.key for record in records) == sorted(case.key for case in SMALL.cases())
    assert told_of == [(3, 5), (4, 5), (5, 5)]


def test_no_case_is_begun_when_time_is_up(tmp_path: Path) -> None:
    assert faults.run(SMALL, tmp_path, workers=1, limit_seconds=0.0) == []


def test_a_case_that_cannot_be_carried_says_why() -> None:
    record = faults.diagnosed(Case(kind="planted", subject="regression", faults=("softmax-before-cross-entropy",)))
    assert not record.carried
    assert record.error


def test_a_crash_of_the_examination_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("no\nmore")

    monkeypatch.setattr(faults, "examine", crash)
    record = faults.diagnosed(Case(kind="healthy", subject="mlp"))
    assert (record.carried, record.error) == (True, "RuntimeError: no")


def test_figures_and_matrix_are_written_for_each_half(tmp_path: Path) -> None:
    records = [told(case) for case in SMALL.cases()]
    page = tmp_path / "page.md"
    faults.write(tmp_path, {"all": records}, page)
    assert (tmp_path / "figures.json").read_text().startswith("{")
    assert page.read_text() == (tmp_path / "confusion.md").read_text()


@pytest.mark.slow
def test_a_planted_softmax_is_named_first_by_the_whole_examination() -> None:
    case = Case(kind="planted", subject="vision", faults=("softmax-before-cross-entropy",))
    record = faults.diagnosed(case)
    assert record.is_first
    assert record.first_is_confirmed
