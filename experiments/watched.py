"""An unmodified script, run to its own end in this process and watched; the side that lies inside of it.

The script is the process: its streams, its signals, its exit code and its Weights & Biases are its own. Files, our
tracker and reports are the business of a process beside it (`experiments.beside`), and an examination that of a forked
one, so that the script waits for neither.
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from diagnostics import Budget, examine
from diagnostics.capture.captured import captured
from diagnostics.capture.recording import Recording
from diagnostics.capture.script import compiled, run_to_its_end
from diagnostics.capture.standstill import Standstill
from diagnostics.capture.watching import Watch
from diagnostics.subject import LossHistory, Subject
from diagnostics.workers import one_thread
from experiments.beside import Beginning, command
from experiments.handover import write_diagnosis
from experiments.observed import out_of_the_way, silence
from experiments.tracking import run_of_the_script

LOW_PRIORITY = 5  # of nice: on a core that both want, the script keeps three quarters
NO_TRIALS = Budget(seeds=(0, 1), workers=1, seconds=1e-3)  # probes and verdicts only
WITH_TRIALS_SECONDS = 90.0
PATIENCE_SECONDS = 240.0  # with an examination, once the script has ended: on a busy machine it gets little time
PATIENCE_WITH_TRIALS = 600.0
BESIDE_SECONDS = 120.0  # for the process beside to write its last report and to tell W&B
OF_THE_SCRIPTS_RUN = (
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_SWEEP_ID",
    "WANDB_SERVICE",
    "WANDB_RUN_GROUP",
    "WANDB_NAME",
)


def watched(script: Path, arguments: Sequence[str], beginning: Beginning, *, diagnose: bool) -> int:
    """Run a script to its own end; its exit code.

    Args:
        beginning: what the process beside needs to know.
        diagnose: examine it, trials included, once it has ended.

    Raises:
        ValueError: it is no Python file that can be read and compiled.
    """
    compiled(script)
    recording = Recording(name=script.name)
    with process_beside(beginning) as beside, examinations(recording, beginning, beside) as examined:
        watch = Watch(recording, warn=beside.warn, log=beside.log, stands=lambda found: examined.begin(watch, found))
        try:
            with watch, out_of_the_way(script):
                code = run_to_its_end(script, arguments)
        finally:
            examined.finish()
        if diagnose:
            say(f"examining {script.name}, which takes about {WITH_TRIALS_SECONDS:g} seconds")
            examined.begin(watch, None, Budget(seconds=WITH_TRIALS_SECONDS))
            examined.finish(PATIENCE_WITH_TRIALS)
        beside(end=code, steps=watch.steps)
    return code


class Beside:
    """Messages to the process beside, a line of JSON each; nothing where that process is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.told_run = False

    def __call__(self, **message: Any) -> None:
        with suppress(OSError):
            os.write(self.descriptor, (json.dumps(message) + "\n").encode())

    def log(self, row: Mapping[str, int | float]) -> None:
        """A row of numbers; with the first one, which run the script itself tells W&B about."""
        self(row=dict(row), run=None if self.told_run else run_of_the_script())
        self.told_run = True

    def warn(self, line: str) -> None:
        """A line for people."""
        say(line)
        self(warning=line)


def say(line: str) -> None:
    """A line on the error stream as it was before the script, which may have closed or replaced its own."""
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):
            print(f"unplateau: {line}", file=sys.__stderr__, flush=True)


@contextmanager
def process_beside(beginning: Beginning) -> Iterator[Beside]:
    """The process beside, in a session of its own: what is typed at the terminal reaches the script only."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_THE_SCRIPTS_RUN}
    process = subprocess.Popen(
        command(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    assert process.stdin is not None
    beside = Beside(process.stdin.fileno())
    beside(**asdict(beginning))
    try:
        yield beside
    finally:
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(BESIDE_SECONDS)


@dataclass
class Examinations:
    """Examinations of what was recorded, each in a forked process; of low priority while the script runs."""

    recording: Recording
    folder: Path
    beside: Beside
    modules: dict[str, Any]
    running: list[int] = field(default_factory=list)

    def begin(self, watch: Watch, found: Standstill | None, budget: Budget = NO_TRIALS) -> None:
        """Examine the run as it stands."""
        if found is not None:
            self.beside(stands=asdict(found), step=watch.steps)
        if sys.platform != "linux" or torch.cuda.is_initialized():
            self.beside.warn(f"step {watch.steps}: not examined: a process that uses a GPU cannot be forked")
            return
        file = self.folder / f"diagnosis-{watch.steps}.pickle"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the script may have threads; the child uses none
            pid = os.fork()
        if pid:
            self.running.append(pid)
            return
        priority = 0 if found is None else LOW_PRIORITY  # once the script has ended nobody is held up
        apart(lambda: self._examine(watch, budget, file), self.folder / "examination.log", priority)

    def _examine(self, watch: Watch, budget: Budget, file: Path) -> None:
        """In the forked process: torch as it was, our own modules by their names, and then the examination."""
        watch.__exit__()
        sys.modules.update(self.modules)
        with one_thread():
            result = examine(subject_of(self.recording, watch), budget=budget)
        write_diagnosis(result, file)
        self.beside(diagnosis=str(file), step=watch.steps)

    def finish(self, patience: float = PATIENCE_SECONDS) -> None:
        """Wait for what still runs, but for so many seconds only, and not where somebody presses Ctrl-C."""
        self.running = [pid for pid in self.running if still_runs(pid)]
        if self.running:
            say("waiting for an examination; Ctrl-C ends it")
        ends = time.monotonic() + patience
        try:
            while self.running and time.monotonic() < ends:
                time.sleep(0.05)
                self.running = [pid for pid in self.running if still_runs(pid)]
        except KeyboardInterrupt:
            patience = 0.0
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
            self.beside.warn(f"an examination was ended {f'after {patience:g} seconds' if patience else 'by you'}")
        self.running.clear()


@contextmanager
def examinations(recording: Recording, beginning: Beginning, beside: Beside) -> Iterator[Examinations]:
    """None is left running afterwards."""
    found = Examinations(recording, Path(beginning.folder), beside, dict(sys.modules))
    try:
        yield found
    finally:
        found.finish()


def subject_of(recording: Recording, watch: Watch) -> Subject:
    """The subject that a watched run shows, with its whole curve; raises ValueError where it shows none."""
    subject = captured(recording).subject
    known = f"{watch.steps} steps were watched; the first and the latest of them are known in full"
    return replace(subject, history=LossHistory(losses=tuple(watch.curve.means)), notes=(known, *subject.notes[1:]))


def apart(work: Callable[[], None], log: Path, priority: int) -> None:
    """Do something in a forked process and end it, whatever happens; what it says goes to a file."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.nice(priority)
        silence(log)
        work()
        code = 0
    except BaseException:
        sys.__excepthook__(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def still_runs(pid: int) -> bool:
    """Whether a process of ours still runs; the script may have waited for it already."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False
