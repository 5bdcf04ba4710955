"""The benchmark's counting, on records made by hand."""

import json
import math
from dataclasses import asdict

import pytest

from experiments.benchmarks.scores import (
    Named,
    Record,
    Share,
    confusion,
    in_words,
    record_of,
    seconds_per_diagnosis,
    shares,
)

SOFTMAX, LEAK, NORM = "softmax-before-cross-entropy", "future-token-leak", "norm-over-the-wrong-axis"
GRAPH, DEVIATION, EXPLANATION = "history-keeps-the-graph", "untied-head", "at-the-entropy-floor"


def named(id_: str, role: str = "holds the loss up", *, confirmed: bool = True) -> Named:
    """A cause as told."""
    return Named(id=id_, role=role, confirmed=confirmed)


def record(kind: str, planted: tuple[str, ...], *causes: Named, told: tuple[str, ...] = ()) -> Record:
    """A record whose key says what is in it."""
    key = f"{kind} {'+'.join(planted)}: {', '.join(cause.id for cause in causes)}"
    return Record(key=key, kind=kind, subject="gru", planted=planted, causes=causes, told=told, seconds=2.0)


def figure(records: list[Record], what: str) -> tuple[int, int]:
    """(hits, of) of one figure."""
    (one,) = [each for each in shares(records) if each.what == what]
    return one.hits, one.of


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (95, 100, 0.8883, 0.9785),
    ],
)
def test_the_interval_is_wilsons(hits: int, of: int, low: float, high: float) -> None:
    """Against the closed form at z = 1.96: (p + z^2/2n +- z sqrt(pq/n + z^2/4n^2)) / (1 + z^2/n)."""
    assert Share(what="heads", hits=hits, of=of).interval == pytest.approx((low, high), abs=1e-4)


def test_of_nothing_there_is_no_share() -> None:
    nothing = Share(what="heads", hits=0, of=0)
    assert math.isnan(nothing.value)
    assert nothing.interval == (0.0, 1.0)
    assert in_words(nothing).endswith("none")


def test_only_the_very_first_cause_counts_as_first() -> None:
    records = [
        record("planted", (LEAK,), named(LEAK)),
        record("planted", (LEAK,), named(NORM), named(LEAK)),
        record("planted", (LEAK,)),
    ]
    assert figure(records, "planted fault named first") == (1, 3)
    assert figure(records, "planted fault within the first three") == (2, 3)
    assert figure(records, "planted fault detected") == (2, 3)
    assert figure(records, "a wrong cause confirmed (planted)") == (1, 3)


def test_a_consequence_that_comes_later_counts_neither_against_nor_as_a_place() -> None:
    follows = [named(each, "follows from others", confirmed=False) for each in (NORM, SOFTMAX, GRAPH)]
    late = record("planted", (LEAK,), *follows, named(LEAK))
    early = record("planted", (LEAK,), named(LEAK), *follows)
    assert not late.is_first
    assert late.named_within(1)
    assert early.is_first
    assert early.wrong_but_confirmed == ()
    assert early.suspects == (named(LEAK),)


def test_a_fault_that_no_loss_shows_need_not_be_confirmed() -> None:
    silent = named(GRAPH, "no loss shows it", confirmed=False)
    records = [record("planted", (GRAPH,), silent), record("planted", (LEAK,), named(LEAK, confirmed=False))]
    assert figure(records, "named first and confirmed, where a loss can show it") == (0, 1)
    assert figure(records, "planted fault named first") == (2, 2)


def test_deviations_and_explanations_are_counted_apart() -> None:
    records = [
        record("planted", (DEVIATION,), told=(DEVIATION,)),
        record("planted", (EXPLANATION,), named(SOFTMAX)),
    ]
    assert figure(records, "deviation or explanation told") == (1, 2)
    assert figure(records, "planted fault named first") == (0, 0)


def test_a_healthy_setup_is_suspected_before_it_is_confirmed() -> None:
    records = [
        record("healthy", (), told=(DEVIATION,)),
        record("healthy", (), named(LEAK, "not confirmed", confirmed=False)),
        record("healthy", (), named(LEAK)),
    ]
    assert figure(records, "suspicion on a healthy setup") == (2, 3)
    assert figure(records, "confirmed cause on a healthy setup") == (1, 3)


def test_of_a_pair_both_must_be_told() -> None:
    records = [
        record("pair", (LEAK, SOFTMAX), named(SOFTMAX), named(LEAK)),
        record("pair", (LEAK, SOFTMAX), named(LEAK), named(NORM)),
        record("pair", (LEAK, SOFTMAX), named(NORM), named(LEAK)),
    ]
    assert figure(records, "both of a pair named") == (1, 3)
    assert figure(records, "at least one of a pair named first") == (2, 3)


def test_what_could_not_be_carried_or_crashed_is_not_counted() -> None:
    values = asdict(record("planted", (LEAK,)))
    away = [record_of(values | {"carried": False}), record_of(values | {"error": "ValueError: no"})]
    assert figure(away, "planted fault detected") == (0, 0)
    assert all(map(math.isnan, seconds_per_diagnosis(away)))


def test_a_record_comes_back_from_its_line() -> None:
    kept = record("planted", (LEAK,), named(LEAK), told=(DEVIATION,))
    assert record_of(json.loads(json.dumps(asdict(kept)))) == kept


def test_the_matrix_lists_what_was_named_instead_and_as_well() -> None:
    page = confusion(
        [
            record("planted", (LEAK,), named(LEAK), named(NORM)),
            record("planted", (LEAK,), named(NORM)),
            record("planted", (LEAK,)),
            record("planted", (DEVIATION,), told=(DEVIATION,)),
            record("healthy", (), named(SOFTMAX)),
            record("healthy", ()),
        ]
    )
    lines = page.splitlines()
    assert f"| {LEAK} | 3 | 1 | 1 | 1 | {NORM} 1, nothing 1 | {NORM} 1 |" in lines
    assert f"| {DEVIATION} (deviation) | 1 | told 1 |  |  |  |  |" in lines
    assert f"Alarms on 2 healthy setups: {SOFTMAX} 1." in lines
