"""Runs a script under observation: until it is known how it trains, or only to its start with another seed."""

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.capture.observer import Observer, replaced
from diagnostics.capture.recording import Backward, Recording
from diagnostics.capture.replica import model_of, tensor_names
from diagnostics.capture.script import EnoughError, run_script

STEPS = 200
SECONDS = 60.0
BACKWARDS = 50  # backward passes per wanted step without a single optimizer step: there will be none
TRIES = 3  # to end a script that catches everything
PRIME = 7919  # between a script's own seeds and those of its other starts


def observe(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    steps: int = STEPS,
    seconds: float = SECONDS,
    instead_of_ending: Callable[[Recording], None] | None = None,
) -> Recording:
    """What a script does until it has taken so many optimizer steps, or trained for so many seconds, or ends by itself.

    Nothing that it computes changes. It runs in this process, as ``__main__``; Ctrl-C ends it and keeps what was seen.

    Args:
        script: a Python file, unmodified.
        arguments: its command line.
        steps: of its first optimizer.
        seconds: from its first forward pass on.
        instead_of_ending: called with the recording where the script catches every exception that would end it, in the
            middle of it; must not return. None: the script goes on to its end, unseen.

    Raises:
        ValueError: it is no Python file that can be read and compiled.
    """
    recording = Recording(name=script.name)
    limit = Limit(steps, seconds)

    def after_step(done: int) -> None:
        if limit.told <= TRIES:
            limit.check(observer)
            return
        observer.__exit__()
        recording.ending = "enough"
        if instead_of_ending is not None:
            instead_of_ending(recording)

    observer = Observer(recording, after_step)
    began = time.perf_counter()
    with observer:
        recording.ending, recording.said = run_script(script, arguments)
    recording.start_seconds = (observer.began or time.perf_counter()) - began
    return recording


class Limit:
    """Ends the script when it has been seen long enough."""

    def __init__(self, steps: int, seconds: float) -> None:
        self.steps, self.seconds, self.told = steps, seconds, 0

    def check(self, observer: Observer) -> None:
        """Raises EnoughError when that is so."""
        late = observer.began is not None and time.perf_counter() - observer.began > self.seconds
        hopeless = observer.steps == 0 and observer.backwards > BACKWARDS * self.steps
        if observer.steps >= self.steps or late or hopeless:
            self.told += 1
            raise EnoughError


def start_of(
    script: Path,
    arguments: Sequence[str],
    seed: int,
    *,
    instead_of_ending: Callable[[dict[str, Tensor]], None] = lambda numbers: None,
) -> dict[str, Tensor]:
    """The numbers that a script's model starts from with another seed, by name: it runs up to its first update.

    Args:
        instead_of_ending: called with the numbers, in the middle of the script, where it catches what would end it.

    Raises:
        ValueError: it takes no step that can be played again, or is no Python file.
    """
    recording, told = Recording(name=script.name), [0]

    def enough() -> None:
        told[0] += 1
        if told[0] > TRIES:
            instead_of_ending(numbers_at_start(recording))
        raise EnoughError

    with reseeded(seed), Observer(recording, before_step=enough):
        _, recording.said = run_script(script, arguments)
    return numbers_at_start(recording)


def numbers_at_start(recording: Recording) -> dict[str, Tensor]:
    """What the model held before its first step, by name; raises ValueError where it is not known."""
    forwards = [e.forward for e in recording.events if isinstance(e, Backward) and e.forward is not None]
    if not forwards:
        why = f" ({recording.said})" if recording.said else ""
        raise ValueError(f"{recording.name} did not come to its first step with another seed{why}")
    names = tensor_names(model_of(forwards))
    return {names[key]: value for key, (_, value) in recording.initial.items() if key in names}


@contextmanager
def reseeded(seed: int) -> Iterator[None]:
    """Every random state, and every seed that is set inside, is another one than usual."""

    def shifted(original: Callable[..., Any]) -> Callable[..., Any]:
        def set_seed(value: Any = None, *rest: Any, **named: Any) -> Any:
            return original(value + PRIME * seed if isinstance(value, int) else value, *rest, **named)

        return set_seed

    numpy = sys.modules.get("numpy")
    with ExitStack() as stack:
        for owner, name in ((torch, "manual_seed"), (torch.random, "manual_seed"), (random, "seed")):
            stack.enter_context(replaced(owner, name, shifted))
        if numpy is not None:
            stack.enter_context(replaced(numpy.random, "seed", shifted))
        torch.manual_seed(0)
        random.seed(0)
        yield
