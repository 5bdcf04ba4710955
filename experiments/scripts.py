"""An unmodified training script, run and diagnosed in a process of its own; the side that waits for it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from experiments.handover import read_diagnosis
from experiments.observed import FOUND, KEPT, WRITTEN, Order, command
from experiments.shield import shielded

if TYPE_CHECKING:
    from diagnostics import Diagnosis
    from diagnostics.capture.files import Written

SCRATCH_BYTES = 2 * 2**30
GRACE = 3.0  # seconds to end in when asked to
PATIENCE = 2  # times that Ctrl-C is left to the script
ENDINGS = {
    "enough": "long enough",
    "ended": "to its end",
    "raised": "until it raised {said}",
    "interrupted": "until you interrupted it",
}
Say = Callable[[str], None]
Stage = Callable[[str, int, int], None]


def diagnosed(order: Order, *, say: Say, stages: Callable[[], Any], quiet: bool = False) -> "Diagnosis":
    """The diagnosis of a script.

    Args:
        order: the script runs in its place.
        say: takes one line for people.
        stages: opens a progress bar, see `experiments.commands.console.stages`; it is opened once the script has ended,
            so that the script's own output has the terminal until then.
        quiet: the script's output goes to a file beside the report.

    Raises:
        ValueError: the script cannot be diagnosed; says why in one line.
        KeyboardInterrupt: somebody pressed Ctrl-C while the examination ran; while the script runs, it ends only that.
    """
    try:
        with running(order, quiet=quiet) as (process, messages):
            refused = follow(messages, process, say=say, stages=stages)
    finally:
        told(order, say)
    if refused:
        raise ValueError(refused)
    if process.returncode:
        name, end = Path(order.script).name, end_of(process.returncode)
        raise ValueError(f"{name} {end} before it could be examined{last_words(order.work)}")
    return read_diagnosis(order.work / FOUND)


def in_scratch(order: Order) -> Order:
    """The order with a copy of its place to run in; the script too runs from there where it lies below it."""
    from diagnostics.capture.files import scratch_copy

    place, script = Path(order.place), Path(order.script)
    copy = scratch_copy(place, Path(order.folder) / "scratch", limit_bytes=SCRATCH_BYTES)
    inside = copy / script.relative_to(place) if script.is_relative_to(place) else script
    return replace(order, place=str(copy), script=str(inside), journal=not script.is_relative_to(place))


@contextmanager
def running(order: Order, *, quiet: bool) -> Iterator[tuple[subprocess.Popen[bytes], TextIO]]:
    """The script's process and its messages; it is ended, with all that it started, where it is still there afterwards.

    It has a process group of its own, so that Ctrl-C reaches it once, through us.
    """
    order.work.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    (order.work / "order.json").write_text(json.dumps(asdict(order) | {"messages": write}))
    output = (order.work / "output.txt").open("wb") if quiet else None
    process = subprocess.Popen(
        command(order.work / "order.json"),
        cwd=order.place,
        env=shielded(os.environ, order.work),
        stdin=subprocess.DEVNULL if quiet or os.isatty(0) else None,  # nobody in front of a terminal is asked anything
        stdout=output,
        stderr=output,
        pass_fds=(write,),
        process_group=0,
    )
    os.close(write)
    try:
        with ended_by(signal.SIGTERM, signal.SIGHUP), os.fdopen(read) as messages:
            yield process, messages
        process.wait()
    finally:
        end_group(process)
        if output is not None:
            output.close()


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a process with all that it started in its group; what does not heed a request in time is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        end = time.monotonic() + GRACE
        while is_there(process) and time.monotonic() < end:
            time.sleep(0.02)


def is_there(process: "subprocess.Popen[bytes]") -> bool:
    """Whether anything of its group is left."""
    process.poll()  # or it would be there for ever, as a zombie
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):  # the second on macOS, of zombies
        return False
    return True


@contextmanager
def ended_by(*signals: signal.Signals) -> Iterator[None]:
    """These signals end this process in order, so that what it started ends with it."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {each: signal.signal(each, leave) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def follow(messages: TextIO, process: "subprocess.Popen[bytes]", *, say: Say, stages: Callable[[], Any]) -> str:
    """Tell what the process tells until it ends; the reason where it refuses."""
    with interrupts_left_to(process):
        for line in messages:
            message = json.loads(line)
            if "refused" in message:
                return str(message["refused"])
            if "observed" in message:
                ending = ENDINGS[message["ending"]].format(said=message["said"])
                say(f"watched {message['observed']} optimizer steps, {ending}; now examining")
                break
    with stages() as stage:
        for line in messages:
            message = json.loads(line)
            if "refused" in message:
                return str(message["refused"])
            if "stage" in message:
                stage(message["stage"], message["done"], message["of"])
    return ""


@contextmanager
def interrupts_left_to(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Ctrl-C is the script's inside; pressed again and again, it ends a script that ignores it."""
    presses = itertools.count(1)

    def pass_on(number: int, frame: object) -> None:
        if next(presses) > PATIENCE:
            raise KeyboardInterrupt
        process.send_signal(number)

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end_of(code: int) -> str:
    """How a process ended, in words.

    >>> end_of(-9)
    'was killed by SIGKILL'
    """
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended its process (exit code {code})"


def last_words(folder: Path) -> str:
    """The last line of what the process said, where it was kept."""
    for name in ("examination.log", "output.txt"):
        lines = (folder / name).read_text(errors="replace").split("\n") if (folder / name).exists() else []
        spoken = [line for line in lines if line.strip()]
        if spoken:
            return f": {spoken[-1].strip()}"
    return ""


def told(order: Order, say: Say) -> None:
    """Put the script's files back where its process could not, and say what it wrote."""
    from diagnostics.capture.files import restore

    if not order.journal or not (order.work / KEPT).exists():
        return
    result = restore(order.work / KEPT, order.work / WRITTEN)
    for line in in_words(result.written, order.work / WRITTEN):
        say(line)
    if not result.complete:
        say("files      there are too many files here to see everything that the script wrote")


def in_words(written: Sequence["Written"], aside: Path) -> Iterator[str]:
    """What a script did to files, a line per kind."""
    kept = [each for each in written if each.journaled]
    if kept:
        names = ", ".join(sorted({each.path.name for each in kept})[:4])
        more = f" and {len(kept) - 4} more" if len(kept) > 4 else ""
        yield f"files      the script wrote {names}{more}; they lie in {aside}, yours are as before"
    seen = [each for each in written if not each.journaled]
    if seen:
        yield f"files      changed in a way that could not be kept: {', '.join(str(each.path) for each in seen[:4])}"
