"""The table of the peers, on rows made by hand: none of them needs to be installed."""

import pytest

from experiments.benchmarks.peers import (
    TOOLS,
    Answer,
    Overhead,
    Said,
    ask,
    cases,
    cost,
    overhead,
    spread,
    table,
    why_not,
)
from experiments.benchmarks.subjects import HEALTHY

SAID = [
    Said(tool="ours", subject="gru", fault="dead-relus", says="dead-relus", right=True, alarm=True, seconds=2.0),
    Said(tool="meter", subject="gru", fault="dead-relus", says="loss 2|3", seconds=1.0),
    Said(tool="picky", subject="gru", fault="dead-relus", says="did not run: ValueError: no", ran=False),
    Said(tool="ours", subject="gru", fault="", says="healthy", alarm=False, seconds=5.0),
    Said(tool="meter", subject="gru", fault="", says="loss 0.1", seconds=1.0),
    Said(tool="picky", subject="gru", fault="", says="x/y, p 1.00", alarm=True, seconds=1.0),
]
OVERHEADS = [Overhead(tool="meter", ratios=(1.5, 3.0, 2.0)), Overhead(tool="picky", error="not installed (picky)")]


def test_the_table_holds_every_case_with_the_counts_and_the_cost_below() -> None:
    assert table(SAID, OVERHEADS).splitlines() == [
        "| case | ours | meter | picky |",
        "| --- | --- | --- | --- |",
        "| gru: dead-relus | **dead-relus** | loss 2\\|3 | did not run: ValueError: no |",
        "| gru: healthy | healthy | loss 0.1 | x/y, p 1.00 |",
        "| *names the planted cause* | 1 of 1 | 0 of 1 | did not run |",
        "| *alarms on healthy* | 0 of 1 | passes no judgement | 1 of 1 |",
        "| *cost* | 3.5 (2-5) s a diagnosis | 2 (1.5-3) x a step | not installed (picky) |",
    ]


def test_a_case_that_a_tool_was_not_asked_about_is_said_to_be_not_run() -> None:
    assert "| gru: healthy | not run | loss 0.1 |" in table(SAID[:2] + SAID[4:5], OVERHEADS)


def test_a_cost_that_nobody_measured_is_not_made_up() -> None:
    assert cost("picky", SAID[2:3], []) == "not measured"


def test_the_spread_is_the_median_and_the_range() -> None:
    assert spread((7.0, 2.0, 3.0)) == "3 (2-7)"


def test_a_missing_peer_is_said_to_be_not_installed() -> None:
    assert why_not(ModuleNotFoundError("No module named 'peer'", name="peer")) == "not installed (peer)"


def test_an_error_of_a_peer_is_quoted_in_one_short_line() -> None:
    said = why_not(RuntimeError("shapes differ\nmore"))
    assert said == "did not run: RuntimeError: shapes differ"
    assert len(why_not(ValueError("word " * 100))) <= 90


def test_a_peer_that_raises_is_a_row_and_an_overhead_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: object, steps: int) -> Answer:
        raise RuntimeError("broken")

    monkeypatch.setitem(TOOLS, "broken", broken)  # type: ignore[arg-type]
    case, subject = cases()[0], HEALTHY["mlp"]()
    said = ask("broken", subject, case)
    assert (said.says, said.ran, said.fault) == ("did not run: RuntimeError: broken", False, case.faults[0])
    assert overhead("broken", subject, 1) == Overhead(tool="broken", error="did not run: RuntimeError: broken")


def test_every_planted_case_has_a_healthy_twin() -> None:
    planted = {case.subject for case in cases() if case.kind == "planted"}
    assert {case.subject for case in cases() if case.kind == "healthy"} == planted
