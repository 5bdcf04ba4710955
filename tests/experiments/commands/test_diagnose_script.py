"""`unplateau diagnose train.py`: whatever people's scripts do, it ends well, says so, and leaves their files alone."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments import scripts
from tests.experiments import watching
from tests.experiments.commands.conftest import Run
from tests.scripts.cases import SCRIPTS

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]
MODEL = """
import os, sys
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(11, 7), nn.Linear(7, 11))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

def step():
    tokens = torch.randint(11, (3, 6))
    loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
"""
MARK = "UNPLATEAU_TEST"
FOREVER = (
    MODEL + "\nwhile True:\n    step()\n    torch.save(model.state_dict(), 'best.pt')\n    open('ready', 'w').close()\n"
)
FIVE = MODEL + "\nfor _ in range(5):\n    step()\n"


@dataclass(frozen=True)
class Watched:
    """How the command ended, and the folders of the script and of the results."""

    code: int
    out: str
    err: str
    place: Path
    results: Path

    @property
    def seen(self) -> dict[str, Any]:
        """What was seen of the script: steps, ending, said, losses."""
        return json.loads((self.results / "script" / watching.SEEN).read_text())

    @property
    def files(self) -> set[str]:
        """Everything below the script's folder but what Python itself keeps there."""
        below = (path.relative_to(self.place).as_posix() for path in self.place.rglob("*"))
        return {path for path in below if "__pycache__" not in path}


Watch = Callable[..., Watched]
Start = Callable[..., "Started"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the command is started; packages are found by name in whatever it starts."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


@pytest.fixture
def watch(run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """A script's text, its arguments -> how `unplateau diagnose train.py ARGUMENTS` ended, without an examination."""
    monkeypatch.setattr(scripts, "command", watching.command)

    def watched(
        text: str | bytes | None,
        *arguments: str,
        options: tuple[str, ...] = (),
        at: str = "train.py",
        out: str = "results",
    ) -> Watched:
        script, results = place / at, tmp_path / out
        if text is not None:
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_bytes(text if isinstance(text, bytes) else text.encode())
        ended = run("diagnose", "--wandb", "disabled", "--out", results, *options, at, *arguments)
        return Watched(ended.code, ended.out, ended.err, place, results)

    return watched


def refused(ended: Watched, message: str) -> bool:
    """Exit code 2, and one line that says why on the error stream."""
    assert ended.code == 2, ended
    assert ended.err.splitlines()[-1].startswith("unplateau: "), ended.err
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert "now examining" not in ended.out
    return True


class TestTheScriptsOwnWorld:
    """It finds what it finds when it is started by itself."""

    def test_it_is_main_with_its_own_arguments_folder_and_neighbours(self, watch: Watch, place: Path) -> None:
        (place / "data.txt").write_text("seven")
        (place / "neighbour.py").write_text("VALUE = 11\n")
        text = "import neighbour\nprint(__name__, sys.argv, os.getcwd(), open('data.txt').read(), neighbour.VALUE)\n"
        ended = watch(FIVE + text, "--seeds", "9", "--out", "mine", "--", "-q", "--wandb", "x.py")
        assert ended.code == 0, ended
        arguments = [str(place / "train.py"), "--seeds", "9", "--out", "mine", "--", "-q", "--wandb", "x.py"]
        assert f"__main__ {arguments} {place} seven 11\n" in ended.out
        assert ended.seen["steps"] == 5
        assert not (place / "mine").exists()

    def test_what_it_prints_passes_unchanged(self, watch: Watch) -> None:
        told = "sys.stdout.buffer.write(b'\\r\\x1b[31m80%\\x00|'); sys.stdout.flush(); print('to err', file=sys.stderr)"
        ended = watch(FIVE + told)
        assert ended.code == 0, ended
        assert "\r\x1b[31m80%\x00|" in ended.out
        assert "to err\n" in ended.err

    def test_what_is_piped_into_the_command_reaches_it_and_comes_out_byte_for_byte(
        self, place: Path, tmp_path: Path
    ) -> None:
        (place / "train.py").write_text(FIVE + "sys.stdout.buffer.write(b'<' + sys.stdin.buffer.read() + b'>')\n")
        command = [sys.executable, watching.__file__, "diagnose", "--wandb", "disabled", "--out", str(tmp_path / "out")]
        every_byte = bytes(range(256))
        done = subprocess.run([*command, "train.py"], input=every_byte, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"<" + every_byte + b">" in done.stdout

    def test_quiet_writes_its_output_to_a_file(self, watch: Watch) -> None:
        ended = watch(FIVE + "print('so many lines')", options=("--quiet",))
        assert ended.code == 0, ended
        assert "so many lines" not in ended.out
        assert (ended.results / "script" / "output.txt").read_text() == "so many lines\n"

    def test_modules_beside_it_may_have_the_names_of_ours(self, watch: Watch, place: Path) -> None:
        for beside in ("transformer.py", "experiments.py", "diagnostics/__init__.py", "bpe/__init__.py"):
            (place / beside).parent.mkdir(exist_ok=True)
            (place / beside).write_text("MINE = 13\n")
        early = "import experiments, diagnostics\nprint('early', experiments.MINE, diagnostics.MINE)\n"
        late = "import transformer, bpe\nprint('late', transformer.MINE, bpe.MINE)\n"
        ended = watch(early + FIVE + late)
        assert ended.code == 0, ended
        assert "early 13 13\nlate 13 13\n" in ended.out

    def test_it_may_be_named_by_a_path_from_another_folder(self, watch: Watch, place: Path) -> None:
        (place / "code").mkdir()
        (place / "code" / "neighbour.py").write_text("VALUE = 11\n")
        ended = watch(FIVE + "import neighbour; print(os.getcwd(), neighbour.VALUE)", at="code/train.py")
        assert ended.code == 0, ended
        assert f"{place} 11\n" in ended.out

    def test_a_link_is_the_script_that_it_leads_to(self, watch: Watch, place: Path) -> None:
        (place / "real").mkdir()
        (place / "real" / "neighbour.py").write_text("VALUE = 11\n")
        (place / "real" / "original.py").write_text(FIVE + "import neighbour; print(neighbour.VALUE)")
        (place / "train.py").symlink_to("real/original.py")
        ended = watch(None)
        assert ended.code == 0, ended
        assert "11\n" in ended.out

    def test_it_may_go_to_another_folder(self, watch: Watch, place: Path) -> None:
        ended = watch(FIVE + "os.makedirs('deep'); os.chdir('deep'); open('note.txt', 'w').write('x')")
        assert ended.code == 0, ended
        assert ended.files == {"train.py"}

    @pytest.mark.parametrize(
        "habits",
        [
            "import gc, logging, sys, torch\ntorch.set_default_dtype(torch.float64); torch.set_default_device('cpu')\n"
            "logging.basicConfig(level=0, force=True); sys.excepthook = None; sys.setrecursionlimit(300); gc.disable()",
            "import torch, warnings\nwarnings.simplefilter('error'); torch.multiprocessing.set_start_method('spawn')\n"
            "torch.use_deterministic_algorithms(True); torch.autograd.set_detect_anomaly(True, check_nan=False)",
            "import io, os, sys\nos.close(0); os.environ.clear(); sys.stdout = sys.stderr = io.StringIO()",
        ],
        ids=["torch-and-logging", "warnings-are-errors", "streams-and-environment"],
    )
    def test_its_settings_are_its_own(self, watch: Watch, habits: str) -> None:
        ended = watch(habits + FIVE)
        assert ended.code == 0, ended
        assert ended.seen["steps"] == 5


@pytest.mark.slow
class TestHowItEnds:
    """Every end of a script that trained gives a report; every other one a line."""

    @pytest.mark.parametrize(
        ("end", "ending"),
        [
            ("sys.exit()", "ended"),
            ("sys.exit(0)", "ended"),
            ("sys.exit(3)", "raised"),
            ("raise KeyError('lost')", "raised"),
            ("raise KeyboardInterrupt", "interrupted"),
            ("raise SystemExit('done')", "raised"),
            ("while True: step()", "enough"),
            ("from threading import Thread; Thread(target=lambda: __import__('time').sleep(3600)).start()", "ended"),
            ("import atexit; atexit.register(lambda: os._exit(9))", "ended"),
        ],
    )
    def test_it_is_reported_however_it_ends(self, watch: Watch, end: str, ending: str) -> None:
        ended = watch(FIVE + end, options=("--steps", "13"))
        assert ended.code == 0, ended
        assert ended.seen["ending"] == ending
        assert "now examining" in ended.out
        assert (ended.results / "report.html").exists()

    def test_an_error_in_step_three_is_told_with_its_place(self, watch: Watch) -> None:
        ended = watch(MODEL + "for i in range(9):\n    step()\n    if i == 2: raise RuntimeError('shape [3, 5]')\n")
        assert ended.code == 0, ended
        assert "watched 3 optimizer steps, until it raised RuntimeError: shape [3, 5] (train.py, line" in ended.out

    def test_the_scripts_of_people_that_fail_early_or_never_train(self, watch: Watch, place: Path) -> None:
        shutil.copytree(SCRIPTS / "data", place / "data")
        ended = watch((SCRIPTS / "raises_early.py").read_text(), at="raises_early.py")
        assert ended.code == 0, ended
        assert "optimizer steps, until it raised " in ended.out
        assert refused(
            watch((SCRIPTS / "never_steps.py").read_text(), at="never_steps.py", out="other"), "never_steps.py"
        )

    def test_one_that_catches_everything_ends_all_the_same(self, watch: Watch) -> None:
        loop = "while True:\n    try:\n        step()\n    except BaseException:\n        pass\n"
        ended = watch(MODEL + loop, options=("--steps", "7"))
        assert ended.code == 0, ended
        assert ended.seen["steps"] >= 7

    def test_one_that_leaves_by_the_back_door_is_a_line(self, watch: Watch) -> None:
        ended = watch(FIVE + "os._exit(5)")
        assert refused(ended, "train.py ended its process (exit code 5) before it could be examined")

    def test_one_that_is_killed_is_a_line(self, watch: Watch) -> None:
        ended = watch(FIVE + "os.kill(os.getpid(), 9)")
        assert refused(ended, "train.py was killed by SIGKILL before it could be examined")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("print('hello')", "train.py"),
            ("", "train.py"),
            ("import torch\nloss = torch.ones(1)\n", "train.py"),
            ("raise ValueError('no data')", "ValueError: no data (train.py, line 1)"),
            ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
            ("for in range(3):\n", "is no Python: invalid syntax (line 1)"),
            (b"# caf\xe9\nprint('\xe9')\n", "is no Python"),
            (b"a = 1\0\n", "is no Python"),
            ("name = input('who? ')", "EOFError"),
            ("import sys; sys.exit('usage: train.py DATA')", "usage: train.py DATA"),
            ("import argparse; p = argparse.ArgumentParser(); p.add_argument('data'); p.parse_args()", "train.py"),
            ("import sys; sys.exit(3)", "SystemExit: 3"),
            ("import os; os._exit(3)", "exit code 3"),
        ],
    )
    def test_one_that_never_trains_is_a_line(self, watch: Watch, text: str, message: str) -> None:
        assert refused(watch(text), message)

    def test_one_that_is_not_there_is_a_line(self, watch: Watch) -> None:
        assert refused(watch(None), "train.py does not exist; give the path of a training script")

    def test_a_folder_is_no_script(self, watch: Watch, place: Path) -> None:
        (place / "train.py").mkdir()
        assert refused(watch(None), "train.py is a folder")

    def test_one_that_may_not_be_read_is_a_line(self, watch: Watch, place: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        (place / "train.py").write_text(FIVE)
        (place / "train.py").chmod(0)
        assert refused(watch(None), "cannot be read: Permission denied")


class TestItsFiles:
    """What a script writes is set aside and said, what it wrote over is back."""

    def test_a_checkpoint_lands_beside_the_users_own(self, watch: Watch, place: Path) -> None:
        (place / "best.pt").write_bytes(b"three weeks of training")
        writes = "torch.save(model.state_dict(), 'best.pt'); os.remove('log.txt')\nopen('new.txt', 'w').write('x')"
        (place / "log.txt").write_text("mine")
        ended = watch(FIVE + writes)
        assert ended.code == 0, ended
        assert ended.files == {"train.py", "best.pt", "log.txt"}
        assert ((place / "best.pt").read_bytes(), (place / "log.txt").read_text()) == (
            b"three weeks of training",
            "mine",
        )
        written = ended.results / "script" / "written"
        assert (written / "best.pt").stat().st_size > 100
        assert (written / "new.txt").read_text() == "x"
        assert f"they lie in {written}, yours are as before" in ended.out

    @pytest.mark.parametrize("end", ["os._exit(5)", "os.kill(os.getpid(), 9)", "raise RuntimeError"])
    def test_they_are_back_however_it_ends(self, watch: Watch, place: Path, end: str) -> None:
        (place / "best.pt").write_bytes(b"three weeks of training")
        watch(FIVE + "torch.save(model.state_dict(), 'best.pt')\n" + end)
        assert (place / "best.pt").read_bytes() == b"three weeks of training"

    def test_scratch_runs_in_a_copy(self, watch: Watch, place: Path) -> None:
        (place / "data.txt").write_text("seven")
        writes = "print(open('data.txt').read()); open('data.txt', 'w').write('gone'); open('new.txt', 'w').write('x')"
        ended = watch(FIVE + writes, options=("--scratch",))
        assert ended.code == 0, ended
        assert "seven" in ended.out
        assert (place / "data.txt").read_text() == "seven"
        assert ended.files == {"train.py", "data.txt"}
        assert f"it runs in a copy of this folder and writes there: {ended.results / 'scratch'}" in ended.out
        assert (ended.results / "scratch" / "new.txt").read_text() == "x"

    def test_a_folder_that_cannot_be_written_needs_another_for_the_results(self, watch: Watch, place: Path) -> None:
        (place / "train.py").write_text(FIVE)
        place.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            ended = watch(None)
        finally:
            place.chmod(stat.S_IRWXU)
        assert ended.code == 0, ended

    def test_results_that_cannot_be_written_are_a_line(self, watch: Watch, tmp_path: Path) -> None:
        (tmp_path / "results").write_text("a file")
        assert refused(watch(FIVE), "results/script: Not a directory")


@pytest.fixture
def started(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., "Started"]]:
    """A script's text -> the command as a process of its own, as soon as the script has made a file named ready."""
    monkeypatch.setenv(MARK, str(tmp_path))
    running: list[Started] = []

    def start(text: str, *options: str, until: str = "ready") -> Started:
        (place / "train.py").write_text(text)
        command = [
            sys.executable,
            watching.__file__,
            "diagnose",
            "--wandb",
            "disabled",
            "--out",
            str(tmp_path / "results"),
        ]
        process = subprocess.Popen(
            [*command, *options, "train.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        running.append(Started(process, place, tmp_path / "results"))
        wait_for(lambda: (place / until).exists() or (tmp_path / "results" / until).exists(), process)
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.communicate()
    for pid in marked(str(tmp_path)):
        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Started:
    """The command while it runs."""

    process: "subprocess.Popen[str]"
    place: Path
    results: Path

    def ended(self) -> Watched:
        """How it ends by itself, with all that it started."""
        out, err = self.process.communicate(timeout=60)
        wait_for(lambda: not self.others)
        return Watched(self.process.returncode, out, err, self.place, self.results)

    @property
    def others(self) -> set[int]:
        """Processes that the command has started, and theirs."""
        return marked(str(self.place.parent)) - {self.process.pid}


def marked(value: str) -> set[int]:
    """Living processes that were started with the mark of one test."""
    wanted = f"{MARK}={value}".encode()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.add(int(folder.name))
    return found


def wait_for(holds: Callable[[], bool], process: "subprocess.Popen[str] | None" = None, seconds: float = 60) -> None:
    """Until something holds, as long as the process lives."""
    end = time.monotonic() + seconds
    while not holds():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
class TestInterrupted:
    """Ctrl-C ends what is going on, and nothing survives the command."""

    @pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["alone", "group"])
    def test_ctrl_c_in_the_middle_still_reports(self, started: Start, send: Callable[[int, int], None]) -> None:
        running = started(FOREVER)
        send(running.process.pid, signal.SIGINT)
        ended = running.ended()
        assert ended.code == 0, ended
        assert "until you interrupted it; now examining" in ended.out
        assert ended.files == {"train.py"}
        assert (ended.results / "report.html").exists()

    def test_ctrl_c_before_the_first_step_is_a_line(self, started: Start) -> None:
        running = started("open('ready', 'w')\nwhile True: pass")
        running.process.send_signal(signal.SIGINT)
        assert refused(running.ended(), "train.py never trains")

    def test_a_script_that_ignores_ctrl_c_is_ended_by_the_third(self, started: Start) -> None:
        ignores = "import signal\nfor each in (2, 15): signal.signal(each, signal.SIG_IGN)\n"
        running = started(ignores + "open('ready', 'w')\nwhile True: pass")
        for _ in range(3):
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        ended = running.ended()
        assert (ended.code, ended.files) == (130, {"train.py"})
        assert ended.err.splitlines()[-1] == "unplateau: interrupted; what was recorded so far stays"

    def test_ctrl_c_in_the_examination_ends_all(self, started: Start, place: Path) -> None:
        (place / watching.PAUSE).touch()
        running = started(FIVE, until=f"script/{watching.SEEN}")
        running.process.send_signal(signal.SIGINT)
        ended = running.ended()
        assert ended.code == 130
        assert ended.err.splitlines()[-1] == "unplateau: interrupted; what was recorded so far stays"
        assert "Traceback" not in ended.err

    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_workers_of_a_real_examination_end_with_the_command(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setenv(MARK, str(place.parent))
        (place / "train.py").write_text(FIVE)
        command = [sys.executable, "-c", "from experiments.commands import main; main()", "diagnose"]
        options = ["--wandb", "disabled", "--workers", "2", "--out", str(place.parent / "results"), "train.py"]
        with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            running = Started(process, place, place.parent / "results")
            log = running.results / "script" / "examination.log"
            wait_for(lambda: log.exists() and len(running.others) >= 3, process)  # the script's process and two workers
            process.send_signal(number)
            process.wait(30)
            wait_for(lambda: not running.others)
        assert running.process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_request_to_end_ends_all_and_puts_files_back(self, started: Start, place: Path, number: int) -> None:
        (place / "best.pt").write_text("three weeks")
        running = started(FOREVER)
        running.process.send_signal(number)
        ended = running.ended()
        assert ended.code == 128 + number
        assert (ended.files, (place / "best.pt").read_text()) == ({"train.py", "best.pt"}, "three weeks")

    def test_a_killed_command_takes_its_script_along_and_the_script_puts_files_back(
        self, started: Start, place: Path
    ) -> None:
        (place / "best.pt").write_text("three weeks")
        running = started(FOREVER)
        running.process.kill()
        ended = running.ended()
        assert (ended.files, (place / "best.pt").read_text()) == ({"train.py", "best.pt"}, "three weeks")

    def test_where_both_are_killed_the_next_diagnosis_puts_files_back(
        self, started: Start, watch: Watch, place: Path
    ) -> None:
        (place / "best.pt").write_text("three weeks")
        running = started(FOREVER)
        for pid in {running.process.pid, *running.others}:
            os.kill(pid, signal.SIGKILL)
        assert running.ended().files == {"train.py", "best.pt", "ready"}
        ended = watch(FIVE, options=("--out", str(place.parent / "others")))
        assert ended.code == 0, ended
        assert "files     yours are as they were before results, which was killed" in ended.out
        assert ({*ended.files}, (place / "best.pt").read_text()) == ({"train.py", "best.pt"}, "three weeks")

    def test_workers_of_a_script_end_with_it(self, started: Start) -> None:
        loader = "from torch.utils.data import DataLoader\nbatches = iter(DataLoader(range(9**9), num_workers=2))\n"
        running = started(MODEL + loader + "next(batches)\nopen('ready', 'w')\nwhile True: next(batches); step()\n")
        assert len(running.others) == 3
        running.process.send_signal(signal.SIGTERM)
        assert running.ended().code == 143

    def test_what_a_script_leaves_running_ends_with_it(self, started: Start) -> None:
        starts = "import subprocess\nsubprocess.Popen(['sleep', '3600'])\nopen('ready', 'w')\n"
        ended = started(FIVE + starts, until="script/order.json").ended()
        assert ended.code == 0, ended


class TestTheSameFolderAgain:
    """Results are never written over, but what came to nothing is in nobody's way."""

    def test_a_script_that_was_refused_may_be_tried_again(self, watch: Watch) -> None:
        assert refused(watch("print('hello')"), "never trains")
        assert watch(FIVE).code == 0

    def test_what_a_script_wrote_is_kept(self, watch: Watch) -> None:
        assert refused(watch("open('new.txt', 'w').write('x')"), "never trains")
        assert refused(watch(FIVE), "already holds what a script wrote; choose another folder with --out")

    def test_a_diagnosis_is_kept(self, watch: Watch) -> None:
        assert watch(FIVE).code == 0
        assert refused(watch(FIVE), "already holds a diagnosis")
