"""What people's scripts show while they are watched: the same numbers as alone, and what is wrong with them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import looking
from tests.scripts.cases import CASES, ScriptCase

pytestmark = pytest.mark.timeout(600)  # all cases are looked at before the first test: a minute on two idle cores

ROOT = Path(__file__).parents[2]
STEPS = 21
SIDE_BY_SIDE = 2
CONSTANT = "parameters-not-registered"
HARMLESS = {  # a sign that forward passes alone cannot tell from harm; trials do
    "messy:healthy": {CONSTANT},  # its table of positions is an attribute that no optimizer knows
    "seed:repaired": {CONSTANT},
}
NOT_YET = {  # what the first steps do not show, or forward passes do not
    "main_argparse:learning-rate-decays-to-zero": "the rate falls later",
    "main_argparse:learning-rate-too-high": "it takes training",
    "logits_and_loss:learning-rate-too-low": "it takes training",
    "hf_trainer:learning-rate-too-low": "it takes training",
    "classifier:unshuffled-batches": "it takes a whole pass over the data",
    "messy:same-batch-again-and-again": "it takes more batches",
    "hf_trainer:parameters-frozen": "what is random is known from another start of the script",
    "own_loss:label-smoothing-too-strong": "a loss class of the script's own smooths in its own way: not seen yet",
}
FIRST_CAUSE = (  # a case of every script, and of every kind of fault; the others take an hour
    "bare_loop:softmax-before-cross-entropy",
    "main_argparse:learning-rate-decays-to-zero",
    "seq2seq_time_first:healthy",
    "logits_and_loss:optimizer-holds-old-parameters",
    "classifier:relu-on-the-logits",
    "hf_trainer:parameters-frozen",
    "lightning_module:softmax-before-cross-entropy",
    "accumulate_amp:gradients-zeroed-before-the-step",
    "two_optimizers:healthy",
    "workers:healthy",
)

every = pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.id, marks=[pytest.mark.slow] if case.expected else []) for case in CASES],
)
healthy = pytest.mark.parametrize("case", [case for case in CASES if not case.expected], ids=lambda case: case.id)
early = pytest.mark.parametrize(
    "case", [case for case in CASES if case.expected and case.id not in NOT_YET], ids=lambda case: case.id
)
Look = Callable[[ScriptCase], dict[str, Any]]


@pytest.fixture(scope="session")
def looked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a few steps of every case that a test of this run asks for showed, see `looking`."""
    folder = tmp_path_factory.mktemp("looked")
    asking = [
        item for item in request.session.items if isinstance(item, pytest.Function) and "seen" in item.fixturenames
    ]
    cases = {each.id: each for each in (item.callspec.params["case"] for item in asking)}
    for case in cases.values():
        (folder / case.id).mkdir()
        case.write(folder / case.id)
    ids = [*cases]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        command = [sys.executable, "-P", looking.__file__, str(STEPS), str(folder)]
        children = [subprocess.Popen([*command, *ids[i::SIDE_BY_SIDE]]) for i in range(SIDE_BY_SIDE)]
        assert [child.wait() for child in children] == [0] * SIDE_BY_SIDE
    return folder


@pytest.fixture
def seen(looked: Path) -> Look:
    """case -> what its first steps showed."""

    def read(case: ScriptCase) -> dict[str, Any]:
        file = looked / f"{case.id}.json"
        assert file.exists(), (looked / f"{case.id}.log").read_text()[-2000:]
        return json.loads(file.read_text())

    return read


@healthy
def test_the_first_losses_are_those_of_the_script_alone(case: ScriptCase, seen: Look, looked: Path) -> None:
    alone = json.loads((looked / f"{case.id}.alone.json").read_text())["losses"]
    assert len(alone) == looking.FIRST
    assert seen(case)["losses"] == alone


@every
def test_the_first_losses_played_again_are_the_same_to_the_last_digit(case: ScriptCase, seen: Look) -> None:
    assert seen(case)["exact"]


@healthy
def test_forward_passes_find_nothing_in_a_healthy_script(case: ScriptCase, seen: Look) -> None:
    assert set(seen(case)["alarms"]) == HARMLESS.get(case.id, set())


@pytest.mark.slow
@early
def test_forward_passes_find_what_is_wrong(case: ScriptCase, seen: Look) -> None:
    assert case.expected in seen(case)["present"]


def first_cause(case: ScriptCase, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str | None]:
    """State and first cause that `unplateau diagnose SCRIPT ARGUMENTS` gives."""
    place, results = folder / "place", folder / "results"
    place.mkdir()
    case.write(place)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-c", "from experiments.commands import main; main()", "diagnose"]
    options = ["--seeds", "2", "--seconds", "60", "--steps", str(case.steps), "--wandb", "disabled", "--quiet"]
    command += [*options, "--out", str(results), case.script, *case.arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((results / "diagnosis.json").read_text())
    return found["state"], next((cause["finding"]["fault"] for cause in found["causes"]), None)


def check(case: ScriptCase, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, first = first_cause(case, folder, monkeypatch)
    assert first == case.expected
    assert state != ("faulty" if case.expected is None else "healthy")


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.id in FIRST_CAUSE], ids=lambda case: case.id)
def test_the_cause_is_named_first(case: ScriptCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(case, tmp_path, monkeypatch)


@pytest.mark.hour
@pytest.mark.parametrize("case", [case for case in CASES if case.id not in FIRST_CAUSE], ids=lambda case: case.id)
def test_the_cause_is_named_first_in_all_others(
    case: ScriptCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(case, tmp_path, monkeypatch)


def test_the_cases_to_be_diagnosed_exist() -> None:
    assert {*FIRST_CAUSE, *HARMLESS, *NOT_YET} <= {case.id for case in CASES}
