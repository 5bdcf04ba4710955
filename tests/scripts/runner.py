"""Run a script for a limited number of optimizer steps, and write down the losses that it goes back from.

``python runner.py STEPS LOSSES SCRIPT [ARGUMENT ...]``: the script sees its own name and arguments, as if it had been
started by itself. What it did not live to do, it did not do: no checkpoint, no exit code of its own.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook


class EnoughSteps(BaseException):
    """The budget is spent. No script catches it, however wide its ``except Exception`` is."""


def record_losses(losses: list[float]) -> None:
    """Append the value of every tensor that ``backward`` is called on."""
    backward = Tensor.backward

    def recorded(self: Tensor, *args: Any, **kwargs: Any) -> None:
        losses.append(float(self.detach()))
        backward(self, *args, **kwargs)

    Tensor.backward = recorded  # type: ignore[method-assign]


def stop_after(steps: int) -> None:
    """Raise once all optimizers together have taken this many steps."""
    taken = 0

    def count(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken >= steps:
            raise EnoughSteps

    register_optimizer_step_post_hook(count)


def main(steps: int, losses_path: Path, script: str, arguments: list[str]) -> None:
    """Run the script as ``__main__`` and leave the losses as JSON, however it ends."""
    losses: list[float] = []
    record_losses(losses)
    stop_after(steps)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except EnoughSteps:
        pass
    finally:
        losses_path.write_text(json.dumps(losses))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
