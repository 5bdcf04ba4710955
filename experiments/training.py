"""Training: from a configuration to a record on disk.

A run can be stopped at any moment. Between steps, Ctrl-C leaves a checkpoint of the last one; a kill leaves the
last checkpoint and every metric logged. A resumed run continues bit for bit: on the same machine it writes the
numbers that the undisturbed run would have written, but for the seconds that it took.
"""

import contextlib
import dataclasses
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from experiments.checkpoint import load_checkpoint, save_checkpoint
from experiments.config import RunConfig, differences
from experiments.data import Prepared, PreparedPairs
from experiments.evaluation import Evaluation, bleu, evaluate
from experiments.record import RunRecord
from experiments.schedule import schedule
from experiments.tasks import AnyTask, Task, Translation
from experiments.tasks import task as task_of
from experiments.tracking import FileTracker, Tracker, Trackers

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
Enough = Callable[[int, Evaluation], bool]
MAY_DIFFER_ON_RESUME = ("name", "track", "train")


@dataclass
class Standing:
    """How far a run has come; all of it is in every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0  # spent on the run until the last row, in all of its sittings
    best_loss: float = math.inf
    evaluations_since_best: int = 0
    losses: list[float] = field(default_factory=list)  # of the steps since the last evaluation


def train(
    config: RunConfig,
    *,
    folder: Path,
    tracker: Tracker | None = None,
    resume: bool = False,
    data: Prepared | PreparedPairs | None = None,
    say: Say = print,
    progress: Progress | None = None,
    enough: Enough | None = None,
) -> RunRecord:
    """Train a model and return its record; the caller's random state stays as it was.

    Args:
        config: the whole run.
        folder: where the record goes; must not hold another run.
        tracker: hears every metric besides the files; None: files only. Whoever opened it finishes it.
        resume: go on from the checkpoint in `folder`.
        data: what `prepare(config)` gave; None prepares it now.
        say: takes one line for people per evaluation.
        progress: is called after each step with (steps done, steps in all).
        enough: is asked after each evaluation, with (tokens seen, what was found); True ends the run there.
    Raises:
        ValueError: the configuration does not fit the data, the machine or the record to resume.
        KeyboardInterrupt: Ctrl-C; the record is usable and its state "interrupted".
    """
    device = device_of(config)
    record = _resumed(Path(folder), config) if resume else None
    task = task_of(config, data)
    _refuse_empty_epochs(task)
    record = record or RunRecord.create(Path(folder), config)
    task.tokenizer.save(record.tokenizer_path)
    with contextlib.ExitStack() as around:
        around.enter_context(_random_states_of_its_own(device))
        run = _Run(config, task, record, device, say=say, progress=progress, enough=enough)
        if resume:
            run.restore()
        run.tracker = _opened(record, tracker)
        _until_the_end(run)
    return record


def device_of(config: RunConfig) -> torch.device:
    """Where a run computes; raises ValueError for a device that is not there, or a precision that it lacks."""
    wished = config.train.device
    has_cuda = torch.cuda.is_available()
    if wished == "cuda" and not has_cuda:
        raise ValueError("device 'cuda' is not there: torch sees no CUDA device; use 'auto' or 'cpu'")
    device = torch.device("cuda" if has_cuda and wished != "cpu" else "cpu")
    if config.train.precision == "bf16" and device.type != "cuda":
        raise ValueError("precision 'bf16' needs a CUDA device and this run is on the CPU; use 'fp32'")
    return device


def optimizer_of(config: RunConfig, model: nn.Module) -> Optimizer:
    """AdamW over all parameters, with the run's settings; its rate is the peak, the schedule scales it.

    Fused, because torch's default loop over the parameters takes six times as long on a CPU (6.6 against 1.1 ms for
    the stuck recipe, whose forward and backward pass take 63).
    """
    optim = config.optim
    return AdamW(
        model.parameters(),
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def total_steps(config: RunConfig, task: Task[Any]) -> int:
    """Length of a run in optimizer steps."""
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None  # TrainConfig has one of the two
    return config.train.epochs * task.steps_per_epoch


class _Run:
    """One run in progress: the model, its optimizer, and how far they have come."""

    tracker: Tracker

    def __init__(
        self,
        config: RunConfig,
        task: AnyTask,
        record: RunRecord,
        device: torch.device,
        *,
        say: Say,
        progress: Progress | None,
        enough: Enough | None,
    ) -> None:
        self.config, self.record, self.device, self.say = config, record, device, say
        self.task: Task[Any] = task
        self.progress = progress or (lambda done, total: None)
        self.enough = enough or (lambda tokens, found: False)
        self.is_enough = False
        self.model = self.task.build(config.seed).to(device)
        self.compiled = cast(nn.Module, torch.compile(self.model)) if config.train.compile else self.model
        self.optimizer = optimizer_of(config, self.model)
        self.total_steps = total_steps(config, self.task)
        self.factor = schedule(config, total_steps=self.total_steps)
        self.standing = Standing()
        self.is_between_steps = True
        self.history: list[Float[Tensor, ""]] = []
        self.started = time.monotonic()
        self.earlier_seconds = 0.0
        torch.manual_seed(config.seed)
        random.seed(config.seed)

    def go(self, stop_if_asked: Callable[[], None]) -> None:
        """All steps that are left, then the last words."""
        for batch in self.batches():
            stop_if_asked()
            self.step(batch)
            self.after_step()
            if self.is_over():
                break
        self.last_words()

    def batches(self) -> Iterator[Any]:
        """Training batches from where the run stands to its last step."""
        per_epoch = self.task.steps_per_epoch
        while self.standing.step < self.total_steps:
            epoch, done = divmod(self.standing.step, per_epoch)
            left = min(per_epoch, done + self.total_steps - self.standing.step)
            yield from islice(self.task.batches(self.config.seed, epoch), done, left)

    def step(self, batch: Any) -> None:
        """One optimizer step on one batch."""
        self.is_between_steps = False
        self.model.train()
        self.rate = self.config.optim.lr * self.factor(self.standing.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad()
        tokens = self.task.count(batch)
        parts = self.task.parts(batch, self.config.optim.accumulate)
        loss = sum(self.backward(part, tokens) for part in parts)
        self.gradient_norm = self.clipped()
        self.optimizer.step()
        self.standing.step += 1
        self.standing.tokens += tokens
        self.standing.losses.append(loss)
        self.is_between_steps = True

    def backward(self, part: Any, tokens: int) -> float:
        """Add the gradient of a part of a batch of `tokens` targets; returns its share of the mean loss."""
        uses_bf16 = self.config.train.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16):
            nats = self.task.loss_sum(
                self.compiled, self.task.to(part, self.device), label_smoothing=self.config.optim.label_smoothing
            )
        loss = nats / tokens
        loss.backward()
        if self.config.defects.history_keeps_the_graph:
            self.history.append(loss)  # the defect itself: a tensor that keeps its graph, for the whole run
        return loss.item()

    def clipped(self) -> float:
        """Clip the gradient if the run asks for it; returns its norm before."""
        limit = self.config.optim.clip_norm
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), limit, norm)
        return float(norm)

    def after_step(self) -> None:
        """What is due after this step: metrics, an evaluation, a checkpoint."""
        train, step = self.config.train, self.standing.step
        is_last = step == self.total_steps
        if step % train.log_every == 0 or is_last:
            self.log_step()
        ends_epoch = train.epochs is not None and step % self.task.steps_per_epoch == 0
        if step % train.eval_every == 0 or ends_epoch or is_last:
            self.look_at_held_out()
        if is_last or (train.checkpoint_every is not None and step % train.checkpoint_every == 0):
            self.save()
        self.progress(step, self.total_steps)

    def is_over(self) -> bool:
        """Whether the caller has seen enough, or patience has run out."""
        if self.is_enough:
            self.save()
            return True
        patience = self.config.train.patience
        if patience is None or self.standing.evaluations_since_best < patience:
            return False
        self.say(f"stopped early: {patience} evaluations without a better one (train.patience)")
        self.save()
        return True

    def log(self, **metrics: int | float) -> None:
        """One row for the trackers, with step, tokens and seconds."""
        standing = self.standing
        standing.seconds = self.earlier_seconds + time.monotonic() - self.started
        at = {"step": standing.step, "tokens": standing.tokens, "seconds": round(standing.seconds, 3)}
        self.tracker.log({**at, **metrics})

    def log_step(self) -> None:
        """The metrics of this step."""
        loss = self.standing.losses[-1]
        if not math.isfinite(loss):
            self.say(f"step {self.standing.step}: the training loss is {loss}")
        self.log(**{"train/loss": loss, "optim/lr": self.rate, "grad/norm": self.gradient_norm})

    def look_at_held_out(self) -> None:
        """Evaluate, log it, say it, and remember whether it was the best."""
        found = evaluate(self.task, self.model, max_batches=self.config.train.eval_batches)
        self.log(**{"val/loss": found.loss, "val/bits_per_byte": found.bits_per_byte})
        self.say(self.line(found))
        standing = self.standing
        is_better = found.loss < standing.best_loss
        standing.best_loss = min(found.loss, standing.best_loss)
        standing.evaluations_since_best = 0 if is_better else standing.evaluations_since_best + 1
        standing.losses.clear()
        self.is_enough = self.enough(standing.tokens, found)

    def line(self, found: Evaluation) -> str:
        """One evaluation in words."""
        standing = self.standing
        epoch = standing.step / self.task.steps_per_epoch
        mean = sum(standing.losses) / len(standing.losses)
        return (
            f"epoch {epoch:.3g}  step {standing.step}  train {mean:.3f}  val {found.loss:.3f}  "
            f"{found.bits_per_byte:.2f} bits/byte  lr {self.rate:.1e}  {time.monotonic() - self.started:.0f} s"
        )

    def last_words(self) -> None:
        """A sample of text, and for translations their BLEU."""
        if isinstance(self.task, Translation):
            score = bleu(self.task, self.model)
            self.log(**{"val/bleu": score})
            self.say(f"BLEU {score:.1f}")
        num_tokens = self.config.train.sample_tokens
        if num_tokens:
            generator = torch.Generator(self.device).manual_seed(self.config.seed)
            text = self.task.sample(self.model, num_tokens=num_tokens, generator=generator)
            self.tracker.table("sample", ["text"], [[text]])
            self.say(f"sample: {text!r}")

    def save(self) -> None:
        """Replace the checkpoint by one of this moment."""
        save_checkpoint(
            self.record.checkpoint_path,
            model=self.model,
            optimizer=self.optimizer,
            progress=dataclasses.asdict(self.standing),
        )

    def restore(self) -> None:
        """Go back to the checkpoint; metrics that were logged after it will be measured again."""
        found = load_checkpoint(self.record.checkpoint_path, model=self.model, optimizer=self.optimizer)
        self.standing = Standing(**found)
        self.earlier_seconds = self.standing.seconds
        self.record.forget_after(self.standing.step)


def _until_the_end(run: _Run) -> None:
    """Run, and write down how it ended."""
    run.record.set_state("running")
    try:
        with ctrl_c_between_steps() as stop_if_asked:
            run.go(stop_if_asked)
    except KeyboardInterrupt:
        if run.is_between_steps and run.standing.step:
            run.save()
        run.record.set_state("interrupted")
        raise
    except BaseException:
        run.record.set_state("failed")
        raise
    run.record.set_state("finished")
    run.tracker.file(run.record.tokenizer_path, kind="tokenizer")
    run.tracker.file(run.record.checkpoint_path, kind="checkpoint")


@contextlib.contextmanager
def _random_states_of_its_own(device: torch.device) -> Iterator[None]:
    """Within, chance may be seeded at will; afterwards the caller's random states are back."""
    before = random.getstate()
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(before)


@contextlib.contextmanager
def ctrl_c_between_steps() -> Iterator[Callable[[], None]]:
    """Within, Ctrl-C waits until the function that this gives is called; a second Ctrl-C does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # only the main thread hears signals
        return
    asked = threading.Event()

    def ask(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def stop_if_asked() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop_if_asked
    finally:
        signal.signal(signal.SIGINT, before)


def _opened(record: RunRecord, tracker: Tracker | None) -> Tracker:
    files = FileTracker(record.folder)
    return files if tracker is None else Trackers([files, tracker])


def _resumed(folder: Path, config: RunConfig) -> RunRecord:
    record = RunRecord.open(folder)
    if not record.checkpoint_path.exists():
        raise ValueError(f"{folder} holds no checkpoint to resume from; start the run in another folder")
    for name, (was, now) in differences(record.config, config).items():
        if name.partition(".")[0] not in MAY_DIFFER_ON_RESUME:
            raise ValueError(f"{name} ({now!r}) differs from the run in {folder} ({was!r}); resume the run as it was")
    record.set_config(config)
    return record


def _refuse_empty_epochs(task: Task[Any]) -> None:
    if not task.steps_per_epoch:
        next(iter(task.batches(0, 0)))  # says why
