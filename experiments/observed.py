"""The process in which a script of the user's own runs: ``python -m experiments.observed ORDER.json``.

It has a process of its own so that nothing of the script reaches us: its exit, its threads, its settings of torch, its
Weights & Biases. What is to be told goes to the parent as lines of JSON; the diagnosis as a file.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from experiments.handover import write_diagnosis
from experiments.shield import keep_wandb_offline

if TYPE_CHECKING:
    from diagnostics.capture.recording import Recording

OURS = frozenset(("bpe", "diagnostics", "experiments", "transformer"))
FOUND = "diagnosis.pickle"
KEPT, WRITTEN = "kept", "written"  # folders for the script's files as they were, and for what it wrote
SLOW_START = 30.0  # seconds to the first step: the script is not started again for the sake of other seeds
START_SECONDS = 120.0  # for one other start
REFUSED, INTERRUPTED = 2, 130
PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the process is to do.

    Args:
        script, arguments: what runs.
        folder: for everything that it leaves.
        place: the folder to run in.
        purpose: the whole diagnosis, or only the numbers that the model starts from with another seed.
        steps, seconds: how long the script is watched.
        seeds: of the trials; ``seed``: of another start.
        workers, examined_within: of the examination, see `diagnostics.Budget`.
        journal: whether the script's files are put back afterwards.
        messages: file descriptor for lines of JSON.
    """

    script: str
    arguments: tuple[str, ...]
    folder: str
    place: str
    purpose: Literal["diagnosis", "start"] = "diagnosis"
    steps: int = 200
    seconds: float = 60.0
    seeds: tuple[int, ...] = (0, 1, 2)
    seed: int = 0
    workers: int | None = None
    examined_within: float | None = None
    journal: bool = True
    messages: int = 2

    @property
    def work(self) -> Path:
        """What is of use while the script runs, and to whoever wants to know how it ran."""
        return Path(self.folder) / "script"


def main() -> None:
    """Carry out the order; exit code 2 where the script cannot be diagnosed, said in a message."""
    given = json.loads(Path(sys.argv[1]).read_text())
    order = Order(**given | {"arguments": tuple(given["arguments"]), "seeds": tuple(given["seeds"])})
    hold(Path(sys.argv[1]))
    end_with_parent()
    keep_wandb_offline()
    tell = Teller(order.messages)
    with last_words(tell):
        start(order) if order.purpose == "start" else diagnosis(order, tell)


def hold(order: Path) -> None:
    """Lock the file of an order for as long as this process or a forked child lives: the script's files are theirs."""
    fcntl.flock(os.open(order, os.O_RDONLY), fcntl.LOCK_EX)


def end_with_parent() -> None:
    """Ctrl-C comes when the parent dies, however it dies: nobody waits for this process any more. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@contextmanager
def last_words(tell: "Teller") -> Iterator[None]:
    """The process ends with what happens inside: whatever is raised reaches nobody else."""
    try:
        yield
    except ValueError as error:
        tell(refused=str(error))
        leave(REFUSED)
    except KeyboardInterrupt:
        leave(INTERRUPTED)
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)


@contextmanager
def error_of(recording: "Recording") -> Iterator[None]:
    """Who is told that a script cannot be diagnosed is told what it raised: mostly that is why."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}; it raised {recording.said}" if recording.said else str(error)) from error


class Teller:
    """Messages to the parent, a line each."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_inheritable(descriptor, False)

    def __call__(self, **message: Any) -> None:
        os.write(self.descriptor, (json.dumps(message) + "\n").encode())

    def stage(self, title: str, done: int, of: int) -> None:
        """How far the work is."""
        self(stage=title, done=done, of=of)


def leave(code: int) -> NoReturn:
    """End at once: what the script registered for its end is not ours to run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def diagnosis(order: Order, tell: Teller) -> None:
    """Run the script, capture it, examine it."""
    from diagnostics.capture.observation import observe
    from diagnostics.capture.recording import Backward

    files = ExitStack()

    def explain(recording: "Recording") -> None:
        with last_words(tell), error_of(recording):
            files.close()
            if any(isinstance(event, Backward) for event in recording.events):
                tell(observed=recording.steps, ending=recording.ending, said=recording.said)
            silence(order.work / "examination.log")
            explained(order, recording, tell)

    with files:
        script = Path(order.script)
        files.enter_context(files_kept(order, KEPT))
        files.enter_context(out_of_the_way(script))
        seen = observe(script, order.arguments, steps=order.steps, seconds=order.seconds, instead_of_ending=explain)
    explain(seen)


@contextmanager
def files_kept(order: Order, name: str) -> Iterator[None]:
    """The script's files are as before afterwards, unless it runs in a copy of them."""
    from diagnostics.capture.files import Journal

    if not order.journal:
        yield
        return
    watched = tuple(dict.fromkeys((Path(order.place), Path(order.script).parent)))
    try:
        with Journal(order.work / name, watched=watched, ignored=(Path(order.folder),)):
            yield
    finally:
        put_back(order, name)


def put_back(order: Order, name: str) -> None:
    """The script's files as they were, what it wrote set aside; may be called again, from any process."""
    from diagnostics.capture.files import restore

    if (order.work / name).exists():
        restore(order.work / name, order.work / name.replace(KEPT, WRITTEN))


def silence(log: Path) -> None:
    """From now on what this process writes for people goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def explained(order: Order, recording: "Recording", tell: Teller) -> None:
    """The diagnosis of what was seen, as a file."""
    import torch

    from diagnostics import Budget, examine
    from diagnostics.capture.captured import captured

    found = captured(recording, other_starts(order, recording, tell))
    workers = 1 if torch.cuda.is_initialized() else order.workers  # a process that uses a GPU cannot be forked
    budget = Budget(seeds=order.seeds, workers=workers, seconds=order.examined_within)
    result = examine(found.subject, budget=budget, progress=tell.stage)
    write_diagnosis(result, order.work / FOUND)


def other_starts(order: Order, recording: "Recording", tell: Teller) -> dict[int, Any]:
    """seed -> the numbers that the model starts from with it, from the script started again, one after the other."""
    import torch

    starts: dict[int, Any] = {}
    seeds = [seed for seed in order.seeds if seed]
    if recording.start_seconds > SLOW_START or not recording.steps:
        return starts
    for done, seed in enumerate(seeds):
        tell.stage("starting the script again with another seed", done, len(seeds))
        file = order.work / f"start-{seed}.pt"
        again = Order(**asdict(order) | {"purpose": "start", "seed": seed, "messages": 2})
        code = run_order(again, order.work / f"start-{seed}.json")
        put_back(again, f"{KEPT}-{seed}")
        if code == 0 and file.exists():
            starts[seed] = torch.load(file, weights_only=True)
            file.unlink()
    return starts


def run_order(order: Order, file: Path) -> int:
    """Carry out an order in a process of its own, in silence; its exit code."""
    file.write_text(json.dumps(asdict(order)))
    with (file.with_suffix(".log")).open("wb") as log:
        try:
            return subprocess.run(
                command(file), cwd=order.place, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=START_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            return 1


def command(file: Path) -> list[str]:
    """The command line of a process that carries out the order in a file.

    -P: the folder that it runs in is not on its path; a folder there may have the name of a package of ours.
    """
    return [sys.executable, "-P", "-m", "experiments.observed", str(file)]


@contextmanager
def out_of_the_way(script: Path) -> Iterator[None]:
    """Packages of ours have no name inside where the script has its own of that name beside it."""
    beside = {path.stem for path in script.parent.iterdir() if path.is_dir() or path.suffix == ".py"}
    ours = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in OURS & beside}
    for name in ours:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.modules.update(ours)


def start(order: Order) -> None:
    """Write the numbers that the script's model starts from with another seed."""
    import torch

    from diagnostics.capture.observation import start_of

    script, file = Path(order.script), order.work / f"start-{order.seed}.pt"

    def write(numbers: dict[str, Any]) -> NoReturn:
        torch.save(numbers, file)
        leave(0)  # the caller puts the script's files back

    with files_kept(order, f"{KEPT}-{order.seed}"), out_of_the_way(script):
        numbers = start_of(script, order.arguments, order.seed, instead_of_ending=write)
    torch.save(numbers, file)


if __name__ == "__main__":
    main()
