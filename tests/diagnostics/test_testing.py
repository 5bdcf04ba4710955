"""The catalogue in somebody's own test suite."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn

from diagnostics.adapt import subject_from
from diagnostics.faults import CATALOGUE
from diagnostics.subject import Subject
from diagnostics.testing import check_subject, fault_cases
from tests import subjects

SOFTMAX = "softmax-before-cross-entropy"
QUICK = tuple(
    f for f in CATALOGUE if f.id in (SOFTMAX, "batch-coupling", "future-token-leak", "learning-rate-too-high")
)
EXPECTED = {SOFTMAX: "the baseline has it"}
ROOT = Path(__file__).parents[2]


def classifier(*last: nn.Module) -> Subject:
    """A classifier of points; with a softmax at its end it is at fault."""
    torch.manual_seed(0)
    points = torch.randn(13, 5)
    model = nn.Sequential(nn.Linear(5, 17), nn.ReLU(), nn.Linear(17, 3), *last)
    return subject_from(model, (points, (points[:, 0] > 0).long()), nn.CrossEntropyLoss(), name="mine")


def at_fault() -> Subject:
    return classifier(nn.Softmax(dim=-1))


@pytest.mark.parametrize("make", [subjects.gru, subjects.mlp, classifier], ids=["gru", "mlp", "adapted"])
def test_a_healthy_subject_passes(make: Callable[[], Subject]) -> None:
    check_subject(make())


def test_a_fault_is_told_with_its_sentence() -> None:
    with pytest.raises(AssertionError) as caught:
        check_subject(at_fault())
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("mine")
    assert len(lines) == 1
    assert lines[0].startswith(f"- {SOFTMAX}: Probabilities are handed to a cross-entropy that expects logits. All ")
    assert lines[0].endswith(f"See `unplateau explain {SOFTMAX}`.")


def test_an_expected_failure_passes() -> None:
    check_subject(at_fault(), expected_failures=EXPECTED)


def test_an_expected_failure_that_is_mended_is_told() -> None:
    with pytest.raises(AssertionError, match=rf"{SOFTMAX} was expected \(the baseline has it\) and is absent"):
        check_subject(classifier(), expected_failures=EXPECTED)


def test_an_expected_failure_needs_a_known_fault_and_a_reason() -> None:
    with pytest.raises(ValueError, match="names 'softmax', which is none of the faults"):
        check_subject(classifier(), expected_failures={"softmax": "why"})
    with pytest.raises(ValueError, match=f"'{SOFTMAX}'] needs a reason"):
        fault_cases(classifier, expected_failures={SOFTMAX: " "})


def test_models_that_are_out_of_scope_are_refused() -> None:
    subject = Subject(
        model=nn.DataParallel(nn.Linear(5, 3)),
        loss=lambda model, batch: model(batch).sum(),
        batches=lambda seed: iter([torch.ones(2, 5)]),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )
    with pytest.raises(ValueError, match=r"pass model\.module"):
        check_subject(subject)


@pytest.mark.parametrize("fault", fault_cases(classifier, faults=QUICK))
def test_cases_of_a_healthy_subject_pass_or_skip(fault: Any) -> None:
    fault.check()


@pytest.mark.parametrize("fault", fault_cases(at_fault, faults=QUICK, expected_failures=EXPECTED))
def test_cases_with_an_expected_failure(fault: Any) -> None:
    fault.check()


def test_every_proof_and_sign_has_a_case_by_its_id() -> None:
    assert [case.id for case in fault_cases(classifier)] == [f.id for f in CATALOGUE if f.grade in ("proof", "sign")]


def test_the_subject_is_made_once_and_only_when_a_case_is_checked() -> None:
    made: list[int] = []

    def make() -> Subject:
        made.append(1)
        return classifier()

    cases = fault_cases(make, faults=QUICK)
    assert made == []
    for case in cases[:1] * 2:
        case.values[0].check()
    assert made == [1]


def test_what_trains_is_read_where_it_is_asked_for() -> None:
    for training in (False, True):
        cases = {case.id: case.values[0] for case in fault_cases(subjects.mlp, faults=QUICK, training=training)}
        case = cases["learning-rate-too-high"]
        assert (case.desk.finding(case.fault).verdict.status == "not tested") is not training
    check_subject(subjects.mlp(), faults=QUICK, training=True)


SUITE = """
    import pytest
    import torch
    from torch import nn

    from diagnostics import CATALOGUE, subject_from
    from diagnostics.testing import fault_cases

    SOME = [f for f in CATALOGUE if f.id in ("softmax-before-cross-entropy", "batch-coupling", "future-token-leak")]


    def make_subject(last=nn.Softmax(-1)):
        points = torch.randn(13, 5)
        model = nn.Sequential(nn.Linear(5, 17), nn.ReLU(), nn.Linear(17, 3), last)
        return subject_from(model, (points, (points[:, 0] > 0).long()), nn.CrossEntropyLoss())


    @pytest.mark.parametrize("fault", fault_cases(make_subject, faults=SOME))
    def test_mine_has_no(fault):
        fault.check()


    EXPECTED = {"softmax-before-cross-entropy": "the baseline has it"}


    @pytest.mark.parametrize("fault", fault_cases(make_subject, faults=SOME, expected_failures=EXPECTED))
    def test_expected(fault):
        fault.check()


    @pytest.mark.parametrize(
        "fault", fault_cases(lambda: make_subject(nn.Identity()), faults=SOME, expected_failures=EXPECTED)
    )
    def test_mended(fault):
        fault.check()
"""


def test_what_pytest_says(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(dedent(SUITE))
    options = ["-rA", "-q", "--tb=short", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", "/dev/null"]
    code = (
        f"import sys, pytest; sys.path.insert(0, {str(ROOT)!r}); sys.exit(pytest.main({[str(tmp_path), *options]!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout
    assert f"FAILED test_mine.py::test_mine_has_no[{SOFTMAX}]" in said, said
    assert f"AssertionError: {SOFTMAX}: Probabilities are handed" in said
    assert "PASSED test_mine.py::test_mine_has_no[batch-coupling]" in said
    assert "future-token-leak was not tested: this subject has no token view" in said
    assert f"XFAIL test_mine.py::test_expected[{SOFTMAX}] - the baseline has it" in said
    assert f"FAILED test_mine.py::test_mended[{SOFTMAX}]" in said
    assert "[XPASS(strict)] the baseline has it" in said


def test_importing_it_does_not_import_pytest() -> None:
    code = "import sys, diagnostics.testing; print('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"
