"""Whether the worker behind a running trial is still alive, in a form that every storage of Optuna can hold.

A worker writes who it is into its trial, and a number that it raises every BEAT_SECONDS. A worker on this machine is
dead once its process is gone; one elsewhere once its number has stood still for STALE_SECONDS of *our* clock, so that
clocks of machines need not agree. Optuna has a heartbeat of its own for databases only, and the journal has none.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


def machine() -> str:
    """This machine, and the numbers that its processes go by: containers on one host may have their own."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str | None:
    """When a process of this machine began, in ticks since the machine did; None where there is no such process.

    Without /proc: "?" for every process that is there.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "?"


def me() -> dict[str, Any]:
    """This process, as it signs its trials."""
    return {"machine": machine(), "pid": os.getpid(), "started": started(os.getpid())}


@contextmanager
def beating(beat: Callable[[int], None], every: float = BEAT_SECONDS) -> Iterator[None]:
    """`beat` is called with 1, 2, ... every so many seconds while the block lasts."""
    over = threading.Event()

    def go_on() -> None:
        number = 0
        while not over.wait(every):
            number += 1
            beat(number)

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watch:
    """Remembers when each trial's beat last changed, as seen from here."""

    def __init__(self, stale_seconds: float = STALE_SECONDS) -> None:
        self.stale_seconds = stale_seconds
        self._seen: dict[int, tuple[object, float]] = {}

    def is_dead(self, trial: int, signed: dict[str, Any] | None, beat: int | None) -> bool:
        """Whether the worker of a running trial is gone.

        Args:
            trial: its number.
            signed: what `me()` gave in its worker; None where it died before it could sign.
            beat: its last beat.
        """
        if signed is not None and signed["machine"] == machine():
            return started(signed["pid"]) != signed["started"]
        now = time.monotonic()
        before, since = self._seen.get(trial, (None, now))
        if (signed, beat) != before:
            before, since = (signed, beat), now
        self._seen[trial] = (before, since)
        return now - since > self.stale_seconds
