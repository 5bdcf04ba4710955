"""The process in which a script runs: its command line, its name space, its messages."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.observed import Order, Teller, command, error_of, other_starts, out_of_the_way, put_back

OURS = ("diagnostics", "experiments", "experiments.observed")


def test_the_folder_that_it_runs_in_is_not_on_its_path(tmp_path: Path) -> None:
    assert command(tmp_path / "order.json") == [
        sys.executable, "-P", "-m", "experiments.observed", str(tmp_path / "order.json")
    ]  # fmt: skip


def test_what_has_the_name_of_ours_beside_the_script_is_the_scripts(tmp_path: Path) -> None:
    (tmp_path / "experiments.py").touch()
    before = {name: sys.modules[name] for name in OURS}
    with out_of_the_way(tmp_path / "train.py"):
        assert [name in sys.modules for name in OURS] == [True, False, False]
    assert {name: sys.modules[name] for name in OURS} == before


def test_ours_are_back_where_the_script_raised(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    before = sys.modules["experiments"]
    with pytest.raises(KeyError), out_of_the_way(tmp_path / "train.py"):
        raise KeyError
    assert sys.modules["experiments"] is before


def test_messages_are_lines_of_json_that_no_other_program_gets() -> None:
    read, write = os.pipe()
    tell = Teller(write)
    tell(observed=3, said="a\nb")
    tell.stage("examining", 1, 2)
    assert not os.get_inheritable(write)
    os.close(write)
    with os.fdopen(read) as lines:
        messages = [json.loads(line) for line in lines]
    assert messages == [{"observed": 3, "said": "a\nb"}, {"stage": "examining", "done": 1, "of": 2}]


@pytest.mark.parametrize(
    ("said", "message"), [("", "never trains"), ("KeyError: x", "never trains; it raised KeyError: x")]
)
def test_what_the_script_raised_is_a_part_of_why_it_is_refused(said: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"), error_of(SimpleNamespace(said=said)):  # type: ignore[arg-type]
        raise ValueError("never trains")


def test_putting_back_where_nothing_was_kept_does_nothing(tmp_path: Path) -> None:
    order = Order(script="train.py", arguments=(), folder=str(tmp_path), place=str(tmp_path))
    put_back(order, "kept")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("steps", "start_seconds"), [(0, 1.0), (5, 31.0)], ids=["never-steps", "slow"])
def test_a_script_is_not_started_again_where_it_never_steps_or_takes_long(
    steps: int, start_seconds: float, tmp_path: Path
) -> None:
    order = Order(script="train.py", arguments=(), folder=str(tmp_path), place=str(tmp_path))
    seen = SimpleNamespace(steps=steps, start_seconds=start_seconds)
    assert other_starts(order, seen, Teller(2)) == {}  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
