"""`unplateau watch`: real scripts run to their own end, with their own output and exit code, and are warned about."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.scripts.cases import CASES, ScriptCase

COMMAND = [sys.executable, "-P", "-c", "from experiments.commands import main; main()", "watch"]
PLAIN = [sys.executable]
ROOT = Path(__file__).parents[3]
LOOP = """
import sys, time
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(int(sys.argv[1])):
    x = torch.randn(13, 7)
    loss = nn.functional.cross_entropy(model(x), x[:, :5].argmax(-1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item())
"""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("unplateau: step")]

    @property
    def summary(self) -> dict[str, object]:
        return dict(json.loads((self.folder / "summary.json").read_text()))


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}


def ended(command: list[str], place: Path, *arguments: str) -> Ended:
    done = subprocess.run(
        [*command, *arguments], cwd=place, env=environment(), capture_output=True, text=True, timeout=280, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr, place / "seen")


def watched(place: Path, *arguments: str, options: tuple[str, ...] = ("--wandb", "disabled")) -> Ended:
    return ended(COMMAND, place, "--out", "seen", *options, *arguments)


def script(place: Path, text: str) -> str:
    (place / "train.py").write_text(text)
    return "train.py"


def case_of(name: str, *edits: tuple[str, str]) -> ScriptCase:
    found = next(case for case in CASES if case.id == name)
    return replace(found, edits=(*found.edits, *edits))


SHORT = ("max_iters = 5000", "max_iters = 60"), ("eval_iters = 20", "eval_iters = 2")


def test_a_healthy_script_is_run_as_it_is_and_left_alone(tmp_path: Path) -> None:
    path = case_of("bare_loop:healthy", *SHORT).write(tmp_path)
    alone, seen = ended(PLAIN, tmp_path, path.name), watched(tmp_path, path.name)
    assert (seen.code, seen.out) == (alone.code, alone.out) == (0, alone.out)
    assert seen.warnings == []
    assert seen.err.splitlines() == ["unplateau: watched bare_loop.py for 60 steps, no warnings; see seen"]
    rows = [json.loads(line) for line in (seen.folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 10, 20, 30, 40, 50, 60]
    assert {"train/loss", "grad/norm", "grad/norm/blocks.1", "level/uniform", "optim/lr"} <= rows[-1].keys()


@pytest.mark.parametrize(
    ("case", "line"),
    [
        (
            case_of("bare_loop:softmax-before-cross-entropy", *SHORT),
            "unplateau: step 1: every row of 54 numbers handed to the cross-entropy sums to 1; it takes logits and "
            "applies the softmax itself",
        ),
        (
            case_of("logits_and_loss:optimizer-holds-old-parameters", ("max_iters = 3000", "max_iters = 20")),
            "unplateau: step 10: no optimizer holds 28 of 28 parameters that get a gradient (transformer.wte.weight, "
            "transformer.wpe.weight, transformer.h.0.ln_1.weight ...)",
        ),
    ],
    ids=lambda value: value.id if isinstance(value, ScriptCase) else "line",
)
def test_a_faulty_script_is_warned_about_in_one_line(case: ScriptCase, line: str, tmp_path: Path) -> None:
    seen = watched(tmp_path, case.write(tmp_path).name, *case.arguments)
    assert (seen.code, seen.warnings[:1]) == (0, [line])
    assert seen.summary["warnings"] == [line.removeprefix("unplateau: ") for line in seen.warnings]


@pytest.mark.parametrize(
    "ending",
    ["sys.exit(3)", "sys.exit('too bad')", "raise RuntimeError('in step 5')", "import os; os._exit(7)", "sys.exit()"],
)
def test_a_script_ends_as_it_does_alone(ending: str, tmp_path: Path) -> None:
    name = script(tmp_path, f"{LOOP}\nprint('last words', flush=True)\n{ending}\n")
    alone, seen = ended(PLAIN, tmp_path, name, "5"), watched(tmp_path, name, "5")
    assert (seen.code, seen.out) == (alone.code, alone.out)
    own = [line for line in seen.err.splitlines() if not line.startswith("unplateau: ")]
    assert own == alone.err.splitlines()


def test_ctrl_c_is_the_scripts_own_and_the_summary_is_written(tmp_path: Path) -> None:
    waiting = LOOP.replace("    print(step", "    time.sleep(0.01)\n    print(step")
    body = waiting.replace("\nfor step", "\ntry:\n  for step").replace("\n    ", "\n      ")
    name = script(tmp_path, f"{body}\nexcept KeyboardInterrupt:\n    print('saved')\n    sys.exit(5)\n")
    arguments = [*COMMAND, "--out", "seen", "--wandb", "disabled", name, "100000"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(tmp_path / "seen" / "metrics.jsonl", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()[-1]) == (5, "saved")
    assert err.startswith("unplateau: watched train.py for ")
    assert json.loads((tmp_path / "seen" / "summary.json").read_text())["exit_code"] == 5


def test_a_script_that_is_killed_leaves_a_summary_too(tmp_path: Path) -> None:
    name = script(tmp_path, f"{LOOP}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    seen = watched(tmp_path, name, "30")
    assert seen.code == -signal.SIGKILL
    assert seen.summary["steps"] == 30


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    ends = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < ends, f"{path} was not written"
        time.sleep(0.05)


def test_what_is_no_python_is_refused_in_one_line(tmp_path: Path) -> None:
    seen = watched(tmp_path, script(tmp_path, "for"))
    assert (seen.code, seen.err.count("\n")) == (2, 1)
    assert "is no Python: invalid syntax (line 1)" in seen.err


def test_a_script_that_does_not_exist_is_refused(run, tmp_path: Path) -> None:
    missing = run("watch", tmp_path / "none.py")
    assert missing.code == 2
    assert "none.py does not exist" in missing.err


TRACKED = f"""
import wandb
run = wandb.init(project="own", group="ours", dir=".")
{LOOP}
run.log({{"loss": loss.item()}})
print("id", run.id, "dir", run.dir, "mode", run.settings.mode)
run.finish()
"""


@pytest.mark.slow
def test_a_script_that_tracks_itself_keeps_its_run_and_gets_ours_beside_it(tmp_path: Path) -> None:
    seen = watched(tmp_path, script(tmp_path, TRACKED), "30", options=())
    assert seen.code == 0
    own = list((tmp_path / "wandb").glob("offline-run-*"))
    ours = list((seen.folder / "wandb").glob("offline-run-*"))
    assert (len(own), len(ours)) == (1, 1)
    words = seen.out.splitlines()[-1].split()
    assert own[0].name.endswith(words[words.index("id") + 1])
    stored = next(ours[0].glob("*.wandb")).read_bytes()
    assert b"ours" in stored
    assert b"grad/norm/2" in stored
    assert b"grad/norm" not in next(own[0].glob("*.wandb")).read_bytes()


@pytest.mark.slow
def test_a_loss_that_stands_still_is_examined_while_the_run_goes_on(tmp_path: Path) -> None:
    case = case_of("bare_loop:softmax-before-cross-entropy", ("max_iters = 5000", "max_iters = 400"))
    seen = watched(tmp_path, case.write(tmp_path).name)
    assert seen.code == 0
    assert any("the first cause is softmax-before-cross-entropy" in line for line in seen.warnings)
    (report,) = seen.folder.glob("step-*/report.html")
    assert report.stat().st_size > 10_000


@pytest.mark.slow
def test_a_run_is_examined_at_its_end_where_that_is_asked_for(tmp_path: Path) -> None:
    case = case_of("bare_loop:softmax-before-cross-entropy", *SHORT)
    seen = watched(tmp_path, case.write(tmp_path).name, options=("--wandb", "disabled", "--diagnose"))
    assert seen.code == 0
    assert any(line.startswith("unplateau: step 60: the first cause is softmax-before") for line in seen.warnings)
