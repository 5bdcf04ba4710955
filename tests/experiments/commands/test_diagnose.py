"""`unplateau diagnose`: what it must find in the stuck run, what it says of a healthy one, and how it refuses."""

import html
import json
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.corpora import lanterns
from experiments.record import RunRecord

COMMAND = [sys.executable, "-c", "from experiments.commands import main; main()", "diagnose"]
REAL = [pytest.mark.slow, pytest.mark.timeout(1200)]  # two minutes on two idle cores

SOFTMAX, NORM, LEAK = "softmax-before-cross-entropy", "norm-over-the-wrong-axis", "future-token-leak"
PINS = {"embedding-scale", "no-final-norm"}
BEHIND = {"targets-not-shifted", LEAK, NORM, "generation-differs-from-training"}
VOCABULARY = {"whole-sentences-as-tokens", "vocabulary-too-large"}
DEPARTURES = {"untied-head", "no-output-projection", "no-gradient-clipping", "no-warm-up", "per-position-affine"}
HARMLESS = DEPARTURES | {
    "positions-added-twice",
    "parameters-not-registered",
}  # a sign, a constant: no trial finds harm
FITS_BELOW, NEAR_THE_CEILING, WORTH_A_REPAIR = 0.05, 0.03, 0.02
WORD = re.compile(r"[A-Za-z']+")


@dataclass(frozen=True)
class Diagnosed:
    """What the command left: its exit code, its output, and its folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def data(self) -> dict[str, Any]:
        """The diagnosis as it lies on disk."""
        return json.loads((self.folder / "diagnosis.json").read_text())

    def causes(self) -> dict[str, dict[str, Any]]:
        """Causes by the id of their fault, in the order in which they are told."""
        return {cause["finding"]["fault"]: cause for cause in self.data["causes"]}

    def with_role(self, role: str) -> set[str]:
        """Ids of the causes with that role."""
        return {fault for fault, cause in self.causes().items() if cause["role"] == role}

    def runs(self, *repaired: str, regime: str) -> list[dict[str, Any]]:
        """Outcomes with exactly these repairs, one per seed."""
        runs = self.data["runs"]
        found = [run["outcome"] for run in runs if run["repaired"] == sorted(repaired)]
        return [outcome for outcome in found if outcome["regime"] == regime]


def diagnosed(recipe: str, folder: Path) -> Diagnosed:
    """`unplateau diagnose` of a recipe with two seeds, in a process of its own."""
    arguments = ["--recipe", recipe, "--seeds", "2", "--wandb", "offline", "--out", str(folder)]
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    return Diagnosed(code=done.returncode, out=done.stdout, err=done.stderr, folder=folder)


@pytest.fixture(scope="session")
def stuck_run(tmp_path_factory: pytest.TempPathFactory) -> Diagnosed:
    """The stuck recipe, diagnosed once for all tests."""
    return diagnosed("stuck", tmp_path_factory.mktemp("stuck"))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Diagnosed:
    """The healthy recipe, diagnosed once for all tests."""
    return diagnosed("small", tmp_path_factory.mktemp("small"))


class TestTheStuckRun:
    """What the command must show of it."""

    pytestmark = REAL

    def test_it_ends_well_and_says_what_to_do_next(self, stuck_run: Diagnosed) -> None:
        assert (stuck_run.code, stuck_run.err) == (0, "")
        assert stuck_run.out.splitlines()[-1].split(maxsplit=1) == [
            "next",
            f"open {stuck_run.folder / 'report.html'} in a browser",
        ]

    def test_the_loss_stands_at_the_ceiling_of_a_double_softmax(self, stuck_run: Diagnosed) -> None:
        ceiling = level(stuck_run, "double-softmax ceiling")
        assert ceiling - NEAR_THE_CEILING < stuck_run.data["standing"] <= ceiling + 1e-4

    def test_the_softmax_is_named_first_and_confirmed(self, stuck_run: Diagnosed) -> None:
        first = next(iter(stuck_run.causes()))
        assert (first, stuck_run.causes()[first]["role"]) == (SOFTMAX, "holds the loss up")
        assert stuck_run.causes()[first]["trials"][0]["confirms"] is True

    def test_the_scale_group_pins_the_loss(self, stuck_run: Diagnosed) -> None:
        assert stuck_run.with_role("pins the loss") >= PINS
        for pin in PINS:
            trial = stuck_run.causes()[pin]["trials"][0]
            assert trial["reference"] == pytest.approx(level(stuck_run, "double-softmax floor"))
            assert trial["confirms"] is True

    def test_behind_it_are_the_causes_that_removing_it_alone_would_hide(self, stuck_run: Diagnosed) -> None:
        assert stuck_run.with_role("hidden behind") >= BEHIND

    def test_the_two_leaks_are_redundant(self, stuck_run: Diagnosed) -> None:
        causes = stuck_run.causes()
        assert LEAK in causes[NORM]["only_with"] or NORM in causes[LEAK]["only_with"]

    def test_what_departs_from_the_recipe_is_measured_harmless(self, stuck_run: Diagnosed) -> None:
        deviations = {each["finding"]["fault"]: each for each in stuck_run.data["deviations"]}
        assert set(deviations) == HARMLESS
        assert all(each["role"] == "no effect here" and each["trials"] for each in deviations.values())
        assert not HARMLESS & set(stuck_run.data["repair_order"])

    def test_the_confirmed_causes_are_repaired_in_an_order_that_begins_with_the_softmax(
        self, stuck_run: Diagnosed
    ) -> None:
        order = stuck_run.data["repair_order"]
        assert order[0] == SOFTMAX
        assert set(order) >= {SOFTMAX} | PINS | BEHIND

    def test_the_repaired_run_learns_one_batch_as_in_generation(self, stuck_run: Diagnosed) -> None:
        learned = stuck_run.data["milestones"][0]
        assert learned["bound"] == FITS_BELOW
        assert len(learned["values"]) == 2
        assert max(learned["values"]) < FITS_BELOW

    def test_new_text_is_learned_with_another_vocabulary_and_not_without(self, stuck_run: Diagnosed) -> None:
        everything, code_alone = stuck_run.data["milestones"][1:]
        assert max(everything["values"]) < everything["bound"]
        assert everything["required"]
        assert min(code_alone["values"]) > code_alone["bound"]
        assert not code_alone["required"]

    def test_the_repairs_of_the_code_alone_are_all_but_the_vocabularys(self, stuck_run: Diagnosed) -> None:
        """The model that reads its own labels is repaired too: what it misses without them is the vocabulary's."""
        code = set(stuck_run.data["repair_order"]) - VOCABULARY
        assert code >= {SOFTMAX} | PINS | BEHIND
        outcomes = stuck_run.runs(*code, regime="fresh batches")
        assert [outcome["honest"] for outcome in outcomes] == stuck_run.data["milestones"][2]["values"]

    def test_no_single_repair_lowers_the_honest_loss(self, stuck_run: Diagnosed) -> None:
        assert stuck_run.with_role("holds the honest loss up") == set()
        before = honest(stuck_run.runs(regime="fresh batches"))
        assert {SOFTMAX} | PINS | BEHIND <= set(stuck_run.data["base"])
        for each in stuck_run.data["base"]:
            assert honest(stuck_run.runs(each, regime="fresh batches")) > (1 - WORTH_A_REPAIR) * before

    def test_removing_the_softmax_alone_makes_the_honest_loss_worse(self, stuck_run: Diagnosed) -> None:
        without, with_it = (stuck_run.runs(*ids, regime="fresh batches") for ids in ((SOFTMAX,), ()))
        assert honest(without) > honest(with_it)

    def test_every_number_can_be_traced_to_a_probe_and_a_seed(self, stuck_run: Diagnosed) -> None:
        for finding in stuck_run.data["findings"]:
            assert all(reading["probe"] and reading["seed"] in (0, 1) for reading in finding["readings"])
            assert finding["readings"] or finding["status"] == "not tested"
        assert all(trial["seeds"] == [0, 1] for cause in stuck_run.data["causes"] for trial in cause["trials"])

    def test_the_report_is_one_file(self, stuck_run: Diagnosed) -> None:
        report = (stuck_run.folder / "report.html").read_text()
        loaded = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'> ]+)", report)
        assert [address for address in loaded if not address.startswith(("data:", "#"))] == []
        assert "@import" not in report
        assert "url(" not in report.replace("url(#", "")

    def test_the_report_names_the_song(self, stuck_run: Diagnosed) -> None:
        report = WORD.findall(html.unescape((stuck_run.folder / "report.html").read_text()))
        spoken = " ".join(report)
        assert any(" ".join(WORD.findall(line)) in spoken for line in song())

    def test_the_record_lies_beside_a_run_of_weights_and_biases(self, stuck_run: Diagnosed) -> None:
        assert RunRecord.open(stuck_run.folder / "run").state == "finished"
        assert list(stuck_run.folder.glob("wandb/offline-run-*"))


class TestTheHealthyRun:
    """What the command says of it."""

    pytestmark = REAL

    def test_it_is_healthy_and_ends_well(self, small_run: Diagnosed) -> None:
        assert (small_run.code, small_run.err) == (0, "")
        assert small_run.data["state"] == "healthy"
        assert (small_run.data["causes"], small_run.data["repair_order"]) == ([], [])
        assert "HEALTHY" in small_run.out

    def test_it_gives_the_numbers_that_say_so(self, small_run: Diagnosed) -> None:
        learned, beaten = small_run.data["milestones"]
        assert max(learned["values"]) < learned["bound"] == FITS_BELOW
        assert max(beaten["values"]) < beaten["bound"]
        assert f"{beaten['bound']:.3f}" in small_run.out


def level(run: Diagnosed, name: str) -> float:
    """A reference level, nats."""
    return next(level["nats"] for level in run.data["levels"] if level["name"] == name)


def honest(outcomes: list[dict[str, Any]]) -> float:
    """Mean honest loss of these runs, bits per byte."""
    return statistics.fmean(outcome["bits_per_byte"] for outcome in outcomes)


def song() -> Iterator[str]:
    """Lines that every episode of the built-in corpus holds."""
    first, *others = (episode.splitlines() for episode in lanterns())
    return (line for line in first if len(WORD.findall(line)) > 3 and all(line in other for other in others))


def test_every_episode_has_the_song() -> None:
    assert len(list(song())) > 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "stucc"], "no recipe 'stucc'; did you mean 'stuck'?"),
        (["--set", "optim.lrr=1"], "OptimConfig has no field 'lrr'; did you mean 'lr'?"),
        (["--set", "defects.untied_heads=false"], "DefectsConfig has no field 'untied_heads'"),
        (["--set", "optim.lr"], "--set 'optim.lr' has no value; write NAME=VALUE"),
        (["--set", "optim.lr=fast"], "optim.lr must be a number, not 'fast'"),
        (["--set", "optim.lr=-1"], "lr (-1.0)"),
        (["--set", "model.d_model=65"], "d_model (65) must be a multiple of num_heads (4)"),
        (["--set", "corpus.source=nowhere.txt"], "nowhere.txt does not exist"),
        (["--wandb", "sometimes"], "track.mode must be one of"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_used_is_one_line(arguments: list[str], message: str, run: Any, tmp_path: Path) -> None:
    ended = run("diagnose", *arguments, "--out", tmp_path / "out")
    assert refused(ended, message)
    assert not (tmp_path / "out").exists()


def refused(ended: Any, message: str) -> bool:
    """Exit code 2, and one line that says why on the error stream."""
    assert ended.code == 2, ended
    assert ended.err.startswith("unplateau: "), ended.err
    assert message in ended.err
    assert (ended.err.count("\n"), "Traceback" in ended.err) == (1, False)
    return True


def test_an_empty_corpus_is_one_line(run: Any, stuck: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    ended = run("diagnose", *stuck, f"--set=corpus.source={tmp_path / 'empty.txt'}", "--out", tmp_path / "out")
    assert refused(ended, "empty.txt is empty")


def test_a_corpus_shorter_than_a_context_is_one_line(run: Any, stuck: list[str], tmp_path: Path) -> None:
    ended = run("diagnose", *stuck, "--set=data.context=9000", "--out", tmp_path / "out")
    assert refused(ended, "too short for one window of data.context + 1 (9001)")


def test_a_folder_that_cannot_be_written_is_one_line(run: Any, stuck: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = run("diagnose", *stuck, "--out", tmp_path / "file" / "below")
    assert refused(ended, "cannot be written: Not a directory")


def test_a_folder_with_a_diagnosis_is_not_overwritten(run: Any, stuck: list[str], tmp_path: Path) -> None:
    from experiments.config import RunConfig

    RunRecord.create(tmp_path / "out" / "run", RunConfig())
    ended = run("diagnose", *stuck, "--out", tmp_path / "out")
    assert refused(ended, "already holds a run")


def test_one_seed_is_refused_because_it_has_no_spread(run: Any) -> None:
    ended = run("diagnose", "--seeds", 1)
    assert ended.code == 2
    assert "--seeds" in ended.err


def test_ctrl_c_while_trials_run_keeps_the_record_and_exits_with_130(stuck: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    arguments = [*stuck, "--set=train.steps=40", "--set=tokenizer.split=none", "--out", str(folder), "--workers", "2"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until_finished(folder / "run", process)
        time.sleep(1)  # into the examination
        interrupted = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert time.monotonic() - interrupted < 15
    assert errors.splitlines()[-1] == "unplateau: interrupted; what was recorded so far stays"
    assert "Traceback" not in errors
    record = RunRecord.open(folder / "run")
    assert record.state == "finished"
    assert sum("train/loss" in row for row in record.rows()) == 40
    assert not (folder / "report.html").exists()


def wait_until_finished(folder: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Until the standing run has ended, with the rest still to come."""
    end = time.monotonic() + seconds
    while not (folder / "state.json").exists() or RunRecord(folder).state != "finished":
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{folder} did not finish"
        time.sleep(0.05)
