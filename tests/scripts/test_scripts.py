"""The scripts that a diagnosis is tried on are what they claim to be, before anything watches them."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from diagnostics.faults import CATALOGUE
from tests.scripts.cases import CASES, NEVER_STEPS, RAISES_EARLY, SCRIPTS, ScriptCase

RUNNER = SCRIPTS / "runner.py"
OURS = {"transformer", "bpe", "diagnostics", "experiments", "tests"}
LEARNS = 0.8
"""A healthy script ends below this share of its first loss."""
APART = 0.05
"""By this share of the healthy script's last loss a fault shows in its own."""

by_id = pytest.mark.parametrize("case", [*CASES, RAISES_EARLY, NEVER_STEPS], ids=lambda case: case.id)
faulty = pytest.mark.parametrize("case", [case for case in CASES if case.expected], ids=lambda case: case.id)
healthy = pytest.mark.parametrize("case", [case for case in CASES if not case.expected], ids=lambda case: case.id)


@by_id
def test_every_edit_applies_and_leaves_a_script_that_compiles(case: ScriptCase) -> None:
    compile(case.text(), case.script, "exec")


def test_no_two_cases_share_an_id() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)


def test_every_expected_fault_is_in_the_catalogue() -> None:
    assert {case.expected for case in CASES} - {fault.id for fault in CATALOGUE} == {None}


def test_every_script_is_there_healthy() -> None:
    assert {case.script for case in CASES if case.expected is None} == {case.script for case in CASES}


def test_an_edit_that_does_not_apply_says_which() -> None:
    case = ScriptCase(script="bare_loop.py", variant="stale", edits=(("no such line", ""),))
    with pytest.raises(ValueError, match=r"bare_loop:stale: 'no such line' must occur exactly once .*, not 0 times"):
        case.text()


@by_id
def test_scripts_import_nothing_of_ours(case: ScriptCase) -> None:
    assert imported(case.text()).isdisjoint(OURS)


def test_a_written_script_stands_beside_its_data(tmp_path: Path) -> None:
    path = CASES[0].write(tmp_path)
    assert path == tmp_path / CASES[0].script
    assert path.read_text() == CASES[0].text()
    assert (tmp_path / "data" / "poems.txt").read_text() == (SCRIPTS / "data" / "poems.txt").read_text()


@pytest.mark.slow
@healthy
def test_a_healthy_script_learns(case: ScriptCase, losses_of: Callable[[ScriptCase], list[float]]) -> None:
    losses = losses_of(case)
    assert last(losses) < LEARNS * losses[0]


@pytest.mark.slow
@faulty
def test_a_fault_does_to_the_loss_what_its_case_says(
    case: ScriptCase, losses_of: Callable[[ScriptCase], list[float]]
) -> None:
    sound = next(other for other in CASES if other.script == case.script and other.expected is None)
    honest = last(losses_of(replace(sound, steps=case.steps)))
    difference = last(losses_of(case)) - honest
    shown = "not-in-the-loss" if abs(difference) < APART * honest else "stands" if difference > 0 else "too-low"
    assert shown == case.effect


@pytest.mark.slow
def test_the_messy_script_leaves_its_files_and_exits_with_zero(tmp_path: Path) -> None:
    messy = next(case for case in CASES if case.script == "messy.py")
    messy.write(tmp_path)
    done = python(tmp_path, messy.script, "1")
    assert done.returncode == 0, done.stderr
    assert {"checkpoints", "train_log.txt", "wandb"} <= set(os.listdir(tmp_path))


@pytest.mark.slow
def test_the_script_that_raises_does_so_after_two_steps(tmp_path: Path) -> None:
    RAISES_EARLY.write(tmp_path)
    done = python(tmp_path, str(RUNNER), "100", "losses.json", RAISES_EARLY.script)
    assert done.returncode == 1
    assert "must match the size of tensor" in done.stderr
    assert len(json.loads((tmp_path / "losses.json").read_text())) == 2


@pytest.mark.slow
def test_the_script_that_never_steps_ends_well_without_a_backward(tmp_path: Path) -> None:
    NEVER_STEPS.write(tmp_path)
    done = python(tmp_path, str(RUNNER), "100", "losses.json", NEVER_STEPS.script)
    assert (done.returncode, json.loads((tmp_path / "losses.json").read_text())) == (0, [])
    assert "perplexity" in done.stdout


@pytest.fixture(scope="session")
def losses_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ScriptCase], list[float]]:
    """case -> the losses of its first steps, run by itself in a folder of its own; once for each case."""

    @cache
    def losses(case: ScriptCase) -> list[float]:
        folder = tmp_path_factory.mktemp(case.script.removesuffix(".py"))
        case.write(folder)
        done = python(folder, str(RUNNER), str(case.steps), "losses.json", case.script, *case.arguments)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "losses.json").read_text())

    return losses


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start an interpreter in a folder, and wait for it."""
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


def last(losses: list[float]) -> float:
    """Mean of the last tenth."""
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def imported(text: str) -> set[str]:
    """Top-level names of all modules that a script imports."""
    nodes = list(ast.walk(ast.parse(text)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    origins = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in plain | origins}
