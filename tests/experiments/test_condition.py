"""Conditions: what holds, what is refused, and that nothing can be called."""

import math

import pytest

from experiments.condition import parse

KNOWN = ("val/loss", "val/bits_per_byte", "train/loss", "my metric-2")
VALUES = {"val/loss": 3.0, "val/bits_per_byte": 2.1, "train/loss": 2.5, "my metric-2": 7.0}
BASELINE = {"val/loss": 2.5, "val/bits_per_byte": 2.0, "train/loss": 3.0, "my metric-2": 11.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val/bits_per_byte > 1.02 * baseline", True),
        ("val/bits_per_byte > 1.06 * baseline", False),
        ("val/loss - baseline >= 5e-1 and train/loss < baseline", True),
        ("not val/loss > 2 * baseline", True),
        ("val/loss > 4 or train/loss / val/loss < 0.9", True),
        ("2 < val/loss <= 3", True),
        ("-val/loss < -3", False),
        ("(val/loss + 1) * 2 == 8", True),
        ('"my metric-2" < baseline', True),
    ],
)
def test_conditions_are_worked_out(text: str, expected: bool) -> None:
    assert parse(text, KNOWN).holds(VALUES, BASELINE) == expected


def test_a_condition_knows_its_metrics_and_whether_it_needs_a_baseline() -> None:
    found = parse("val/loss > 2 and train/loss > 1.1 * baseline", KNOWN)
    assert (found.metrics, found.needs_baseline) == (("val/loss", "train/loss"), True)
    assert not parse("val/loss > 2", KNOWN).needs_baseline


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val/los > 2", "names 'val/los', which no run measured; did you mean 'val/loss'?"),
        ("val/loss >", "is none: invalid syntax"),
        ("", "is none: invalid syntax"),
        ("val/loss", "compares nothing; write such as"),
        ("val/loss > 2 and train/loss", "compares nothing; write such as"),
        ("baseline > 2", "says baseline beside 0 metrics; it needs exactly one"),
        ("val/loss + train/loss > baseline", "says baseline beside 2 metrics; it needs exactly one"),
        ("val/loss ** 99 > 2", "may hold numbers, metrics, comparisons and"),
        ("val/loss > [2]", "may hold numbers, metrics, comparisons and"),
        ("val/loss > (lambda: 2)()", "names 'lambda', which no run measured"),
        ("__import__('os') > 2", "names '__import__', which no run measured"),
        ("val/loss > (2)(3)", "may hold numbers, metrics, comparisons and"),
        ("(val/loss > 2) * 2 > 1", "may compare numbers by"),
        ("(val/loss and train/loss) > 1", "may compare numbers by"),
        ("~val/loss > 1", "may hold numbers, metrics, comparisons and"),
        ("val/loss in (1, 2)", "names 'in', which no run measured"),
        ("val/loss > True", "names 'True', which no run measured"),
        ("(" * 600, "has at most 500 characters, this one has 600"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("?", r"\?")):
        parse(text, KNOWN)


def test_a_division_by_zero_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"the condition 'val/loss / 0 > 1' divides by zero"):
        parse("val/loss / 0 > 1", KNOWN).holds(VALUES, BASELINE)


def test_no_number_compares_as_python_does() -> None:
    assert not parse("val/loss > 2", KNOWN).holds({"val/loss": math.nan}, {})
