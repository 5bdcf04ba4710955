"""Look at scripts for a few steps, each in a forked child of its own, and write down what was seen.

``python looking.py STEPS FOLDER ID ...``: FOLDER/ID holds a written case; FOLDER/ID.json gets what was seen of it. One
process for all of them, because torch takes longer to import than most of them to run.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics import CATALOGUE
from diagnostics.capture.captured import captured
from diagnostics.capture.observation import observe
from diagnostics.capture.script import EnoughError, run_script
from diagnostics.examination import look
from diagnostics.fault import is_alarm, is_present
from tests.scripts.cases import CASES, ScriptCase

FIRST = 10  # losses


def seen_of(case: ScriptCase, script: Path, steps: int) -> dict[str, Any]:
    """What is seen of a script, and what forward passes say about the subject that stands for it."""
    losses: list[float] = []
    with recorded(losses):
        found = observe(script, case.arguments, steps=steps)
    capture = captured(found)
    faults = [fault for fault in CATALOGUE if case.expected in (fault.id, None)]
    findings = look(capture.subject, faults, seed=0, progress=lambda *_: None, costs=("forward",))
    return {
        "ending": found.ending,
        "losses": losses[:FIRST],
        "exact": capture.reproduction.exact,
        "present": [each.fault.id for each in findings if is_present(each)],
        "alarms": [each.fault.id for each in findings if is_alarm(each)],
    }


def losses_alone(case: ScriptCase, script: Path) -> dict[str, Any]:
    """The first losses of a script that nothing watches but a wrapped `torch.autograd.backward`."""
    losses: list[float] = []
    with recorded(losses, enough=FIRST):
        run_script(script, case.arguments)
    return {"losses": losses}


@contextmanager
def recorded(losses: list[float], enough: int | None = None) -> Iterator[None]:
    """Whatever backward is called on is written down, to the last digit; enough of them end the script."""
    original = torch.autograd.backward

    @wraps(original)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        losses.append(float(tensors.detach() if isinstance(tensors, Tensor) else tensors[0].detach()))
        original(tensors, *args, **kwargs)
        if len(losses) == enough:
            raise EnoughError

    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = original


def in_child(work: Callable[[], dict[str, Any]], place: Path, file: Path) -> None:
    """What the work gives, as a file; from a forked child, in a folder, in silence."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    with file.with_suffix(".log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            os.chdir(place)
            file.write_text(json.dumps(work()))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def import_once(ids: list[str]) -> None:
    """What takes seconds to import, so that no child does it again."""
    slow = {"torch._dynamo"}  # which optimizers import
    slow |= {"transformers.trainer" for each in ids if each.startswith("hf_trainer")}
    slow |= {"lightning" for each in ids if each.startswith("lightning_module")}
    for name in slow:
        importlib.import_module(name)


def main(steps: int, folder: Path, ids: list[str]) -> None:
    """Look at every case with one of these ids; a healthy one runs alone too."""
    import_once(ids)
    for case in (case for case in CASES if case.id in ids):
        place = folder / case.id
        script = place / case.script
        if case.expected is None:
            in_child(partial(losses_alone, case, script), place, folder / f"{case.id}.alone.json")
        in_child(partial(seen_of, case, script, steps), place, folder / f"{case.id}.json")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
