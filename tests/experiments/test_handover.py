"""A diagnosis goes from one process to another and is the same there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diagnostics import Diagnosis
from diagnostics.diagnosis import to_json
from experiments.handover import fault_named, read_diagnosis, write_diagnosis
from tests.diagnoses import bare, healthy, stuck, unexplained


@pytest.mark.parametrize("made", [stuck, healthy, unexplained, bare])
def test_what_is_read_is_what_was_written(made: Callable[[], Diagnosis], tmp_path: Path) -> None:
    write_diagnosis(made(), tmp_path / "found")
    assert to_json(read_diagnosis(tmp_path / "found")) == to_json(made())


def test_faults_are_those_of_the_catalogue(tmp_path: Path) -> None:
    write_diagnosis(stuck(), tmp_path / "found")
    for cause in read_diagnosis(tmp_path / "found").causes:
        assert cause.finding.fault is fault_named(cause.finding.fault.id)


def test_the_file_is_gone_once_it_was_read(tmp_path: Path) -> None:
    write_diagnosis(healthy(), tmp_path / "found")
    read_diagnosis(tmp_path / "found")
    assert list(tmp_path.iterdir()) == []
