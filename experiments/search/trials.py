"""One trial: a run with some settings changed, of the same length in tokens as every other, and how it ended.

Nothing here knows Optuna. Whatever goes wrong with values is an ending with a reason, never the end of a study.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from experiments.config import RunConfig, override
from experiments.evaluation import Evaluation
from experiments.search.plan import Limits, Plan
from experiments.search.space import Changes
from experiments.subject import prepared
from experiments.tasks import AnyTask, Task
from experiments.tasks import task as task_of
from experiments.training import train

State = Literal["complete", "pruned", "diverged", "infeasible", "failed"]
POINTS = 9  # evaluations of a trial: two rungs below the end, with a third of the trials promoted from each
BYTES_PER_PARAMETER = 16  # float32: the weight, its gradient and Adam's two moments
MIB = 2**20
Enough = Callable[[int, float], bool]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a trial ended.

    Args:
        state: "complete"; "pruned": worse than others on the way; "diverged": a loss that is no number; "infeasible":
            values that do not fit each other, the text, the machine or a limit; "failed": anything else that it raised.
        reason: why it did not complete, in one line.
        bits_per_byte: on held-out text at the end; NaN where it did not get there.
        loss: the same in nats per token.
        seconds: of training.
        parameters: trainable numbers of the model; None where none was built.
        excess: by how much the limit or rule is missed, where it is "infeasible": above 0.
        curve: (tokens seen, bits per byte) at each evaluation.
    """

    state: State
    reason: str = ""
    bits_per_byte: float = math.nan
    loss: float = math.nan
    seconds: float = 0.0
    parameters: int | None = None
    excess: float = 0.0
    curve: tuple[tuple[int, float], ...] = ()


class InfeasibleError(Exception):
    """Values that need not be trained to be refused; `excess` says by how much a limit is missed."""

    def __init__(self, reason: str, excess: float = 1.0) -> None:
        super().__init__(reason)
        self.excess = excess


def trial_config(plan: Plan, changes: Changes, *, name: str, seed: int) -> RunConfig:
    """The run of a trial: as many steps as it takes to see `plan.tokens`, evaluated POINTS times on the way.

    Evaluations look at the same stretch of held-out text whatever the batches are, up to an eighth of `plan.tokens`.

    Raises:
        ValueError: the settings do not fit each other.
    """
    config = override(plan.config, changes)
    per_step = config.data.context * config.data.batch_size
    steps = math.ceil(plan.tokens / per_step)
    every = math.ceil(steps / POINTS)
    length = {"steps": steps, "epochs": None, "log_every": every, "eval_every": every, "sample_tokens": 0}
    looks = {"eval_batches": max(1, round(plan.tokens / 8 / per_step)), "patience": None, "checkpoint_every": None}
    return override(config, {"name": name, "seed": seed, **{f"train.{key}": v for key, v in (length | looks).items()}})


def run_trial(
    plan: Plan, changes: Changes, folder: Path, *, seed: int, enough: Enough = lambda tokens, loss: False
) -> Ended:
    """Train with these settings and say how it ended; Ctrl-C and a kill are the only ways out.

    Args:
        folder: for the run's record, without its weights.
        enough: is asked after each evaluation, with (tokens seen, bits per byte); True prunes the trial.
    """
    run = _Trial(plan.limits, enough)
    try:
        run.train(trial_config(plan, changes, name=folder.name, seed=seed), folder)
    except InfeasibleError as error:
        return run.ended("infeasible", str(error), excess=error.excess)
    except ValueError as error:  # the messages of this project for what a user can mend: here, by other values
        return run.ended("infeasible", first_line(error), excess=1.0)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return run.ended("infeasible", f"out of memory: {first_line(error)}", excess=1.0)
        return run.ended("failed", described(error))
    except Exception as error:  # one trial's error must not end a study of many hours
        return run.ended("failed", described(error))
    finally:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return run.ended(run.state, run.reason)


class _Trial:
    """One trial in progress."""

    def __init__(self, limits: Limits, enough: Enough) -> None:
        self.limits, self.ask = limits, enough
        self.state: State = "complete"
        self.reason = ""
        self.parameters: int | None = None
        self.last: Evaluation | None = None
        self.curve: list[tuple[int, float]] = []
        self.seconds = 0.0

    def train(self, config: RunConfig, folder: Path) -> None:
        """The run, unless a limit forbids it."""
        data = prepared(config)
        self.refuse_too_large(task_of(config, data), config.seed)
        self.began = time.monotonic()
        try:
            train(config, folder=folder, data=data, say=lambda line: None, enough=self.enough)
        finally:
            self.seconds = time.monotonic() - self.began

    def refuse_too_large(self, task: AnyTask, seed: int) -> None:
        """Count parameters, and measure memory where it is limited; raises Infeasible beyond a limit."""
        model = task.build(seed)
        self.parameters = parameters(model)
        refuse_beyond("parameters", self.parameters, self.limits.parameters)
        if self.limits.memory is not None:
            refuse_beyond("MiB of memory", training_bytes(task, model) / MIB, self.limits.memory)

    def enough(self, tokens: int, found: Evaluation) -> bool:
        """Note an evaluation; True where the trial ends here."""
        self.last = found
        if not math.isfinite(found.bits_per_byte):
            self.state, self.reason = "diverged", f"the held-out loss is {found.loss} after {tokens:,} tokens"
            return True
        self.curve.append((tokens, found.bits_per_byte))
        refuse_beyond("seconds", time.monotonic() - self.began, self.limits.seconds)
        if self.ask(tokens, found.bits_per_byte):
            self.state, self.reason = "pruned", f"{found.bits_per_byte:.3f} bits/byte after {tokens:,} tokens"
        return self.state != "complete"

    def ended(self, state: State, reason: str, *, excess: float = 0.0) -> Ended:
        """Everything that is known of it."""
        complete = self.last if state == "complete" else None
        return Ended(
            state=state,
            reason=reason,
            bits_per_byte=complete.bits_per_byte if complete else math.nan,
            loss=complete.loss if complete else math.nan,
            seconds=self.seconds,
            parameters=self.parameters,
            excess=excess,
            curve=tuple(self.curve),
        )


def refuse_beyond(what: str, value: int | float, limit: int | float | None) -> None:
    """Raises Infeasible where a limit is passed."""
    if limit is not None and value > limit:
        raise InfeasibleError(f"{value:,.6g} {what}, more than {limit:,.6g}", excess=value / limit - 1)


def parameters(model: nn.Module) -> int:
    """Trainable numbers; a shared matrix counts once."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def training_bytes(task: Task[Any], model: nn.Module) -> int:
    """What training holds at its peak, about: weights, gradients, moments, and what a forward pass keeps for backward.

    Measured by one forward pass on the first batch; what torch allocates for a moment within an operation is left out.
    """
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.loss_sum(model.train(), next(iter(task.batches(0, 0))))
    del loss
    return BYTES_PER_PARAMETER * parameters(model) + sum(kept.values())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory."""
    said = str(error).lower()
    kinds = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return kinds or "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said


def described(error: BaseException) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fresh_folder(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3, ... that is not there: a trial's remains are left alone."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(each for each in (folder, *names) if not each.exists()) if folder.exists() else folder
