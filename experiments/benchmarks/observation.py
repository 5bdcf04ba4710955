"""What it costs a training loop to be looked at: CPU and wall time per step, bare and looked at in turns, in one run.

The loop is a plain one, with a model of the size that this project began with (encoder-decoder, d_model 128, 6 + 6
layers, 8 heads, d_ff 512, vocabulary 8063, context 10, batch 100, AdamW), once with one projection for all heads and
once with 24 small ones per attention, as that run had them. Each way of looking meets the bare loop in pairs of steps,
A B, B A, A B ..., both on the same batch with the same random numbers and, so far, the same weights: a pair's ratio
knows nothing of how busy the machine was a minute ago, and the losses must come out the same.
"""

import gc
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diagnostics.capture.observer import FINE_STEPS, Keep, Observer
from diagnostics.capture.recording import Recording
from diagnostics.capture.watching import EVERY, Watch
from experiments.config import DefectsConfig
from experiments.record import write_text
from experiments.stuck import Attention, StuckModel
from experiments.tracking import watched_by_wandb

VOCAB, D_MODEL, HEADS, LAYERS, D_FF, CONTEXT, BATCH = 8063, 128, 8, 6, 512, 10, 100
RATE, DROPOUT = 1e-3, 0.1
TOKENS = 100_000
WARM_STEPS = 2  # before anything is timed: memory is fetched, AdamW makes its moments
CONFIDENCE = 0.95
FEWEST_PAIRS = 6  # that give a median an interval with this confidence
On = Callable[[], AbstractContextManager[Any]]
"""Switches a look on for a block of steps."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of the model and its batches."""

    vocab: int = VOCAB
    d_model: int = D_MODEL
    heads: int = HEADS
    layers: int = LAYERS
    d_ff: int = D_FF
    context: int = CONTEXT
    batch: int = BATCH
    split_heads: bool = False  # a Linear per head for each of query, key and value


SEED_SIZE = Size()


class SplitAttention(nn.Module):
    """Multi-head attention with three small projections per head, as a first implementation often has them."""

    def __init__(self, *, d_model: int, num_heads: int) -> None:
        super().__init__()
        width = d_model // num_heads
        self.scale = width**-0.5
        self.query, self.key, self.value = (
            nn.ModuleList(nn.Linear(d_model, width) for _ in range(num_heads)) for _ in range(3)
        )
        self.output = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Float[Tensor, "batch query_len d_model"],
        memory: Float[Tensor, "batch key_len d_model"],
        may_see: Bool[Tensor, "query_len key_len"] | None,
    ) -> Float[Tensor, "batch query_len d_model"]:
        """What each position of `x` gathers from `memory`, head by head."""
        gathered = []
        for query, key, value in zip(self.query, self.key, self.value, strict=True):
            scores = query(x) @ key(memory).transpose(1, 2) * self.scale
            if may_see is not None:
                scores = scores.masked_fill(~may_see, -math.inf)
            gathered.append(F.softmax(scores, dim=-1) @ value(memory))
        return self.output(torch.cat(gathered, dim=-1))


class Loop:
    """A training loop as people write it, one step at a time."""

    def __init__(self, size: Size) -> None:
        self.size = size
        torch.manual_seed(0)
        self.model = StuckModel(
            vocab_size=size.vocab, d_model=size.d_model, num_heads=size.heads, num_layers=size.layers, d_ff=size.d_ff,
            context=size.context, dropout=DROPOUT, defects=DefectsConfig(),
        )  # fmt: skip
        if size.split_heads:
            split_heads(self.model, size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE)
        self.data = torch.multinomial(1 / torch.arange(1, size.vocab + 1), TOKENS, replacement=True)
        self.losses: list[float] = []

    def batch(self) -> tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]:
        """Windows from anywhere in the text, and the same one token later."""
        starts = torch.randint(len(self.data) - self.size.context, (self.size.batch,))
        x = torch.stack([self.data[i : i + self.size.context] for i in starts])
        y = torch.stack([self.data[i + 1 : i + 1 + self.size.context] for i in starts])
        return x, y

    def step(self, seed: int) -> None:
        """One step, with random numbers of its own."""
        torch.manual_seed(seed)
        x, y = self.batch()
        logits = self.model(x, y)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())


def split_heads(model: nn.Module, size: Size) -> None:
    """Give every attention of a model three projections per head."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, SplitAttention(d_model=size.d_model, num_heads=size.heads))


@dataclass(frozen=True)
class Look:
    """A way of looking at a loop: opened once, it gives what switches it on for a block of steps."""

    open: Callable[[Loop], AbstractContextManager[On]]
    steps: int = 1


@contextmanager
def observed_from_the_start(loop: Loop) -> Iterator[On]:
    """An observer's first step, each time: it copies the model, and keeps random states."""
    yield lambda: Observer(Recording(name="loop"))


@contextmanager
def observed_later(loop: Loop) -> Iterator[On]:
    """One observer on and off, past the steps whose random states it keeps."""
    observer = Observer(Recording(name="loop"))
    for seed in range(WARM_STEPS, WARM_STEPS + FINE_STEPS):
        with observer:
            loop.step(seed)
    yield lambda: observer


@contextmanager
def watched(loop: Loop) -> Iterator[On]:
    """`unplateau watch` on and off, past its first steps; what it measures goes nowhere."""
    watch = Watch(Recording(name="loop"), warn=lambda line: None)
    with watch:
        for seed in range(WARM_STEPS, WARM_STEPS + Keep().first):
            loop.step(seed)
    yield lambda: watch


def wandb_watched(log_freq: int) -> Look:
    """`wandb.watch` on the model all the time, its run logging the loss at every step as one does."""

    @contextmanager
    def open_run(loop: Loop) -> Iterator[On]:
        own = loop.step
        with (
            tempfile.TemporaryDirectory() as folder,
            watched_by_wandb(loop.model, Path(folder), log="gradients", log_freq=log_freq) as run,
        ):

            def logged(seed: int) -> None:
                own(seed)
                run.log({"loss": loop.losses[-1]})

            loop.step = logged  # type: ignore[method-assign]
            yield nullcontext

    return Look(open_run)


LOOKS: dict[str, Look] = {
    "observed, the first step": Look(observed_from_the_start),
    "observed, later steps": Look(observed_later),
    "unplateau watch": Look(watched, steps=EVERY),
    "wandb.watch as it is by default": wandb_watched(1000),
    "wandb.watch at every step": wandb_watched(1),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one way of looking, by one clock.

    Args:
        bare_ms: of a bare step, median.
        looked_at_ms: of one that is looked at.
        ratio: looked at by bare, the median over the pairs.
        low, high: an interval that holds the true median 95 times in 100, whatever the ratios' distribution.
        quartiles: of the pairs' ratios.
    """

    bare_ms: float
    looked_at_ms: float
    ratio: float
    low: float
    high: float
    quartiles: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A way of looking against the bare loop.

    Args:
        pairs: of blocks of ``steps`` steps.
        same_losses: whether the two loops' losses were equal to the last digit.
    """

    model: str
    looks: str
    pairs: int
    steps: int
    cpu: Cost
    wall: Cost
    same_losses: bool


@dataclass
class Times:
    """Seconds per step of every block, by each clock."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def contest(size: Size, name: str, *, pairs: int) -> Contest:
    """Run two loops in turns, the one bare and the other looked at; switching a look on and off is not timed.

    Args:
        pairs: of blocks, where a block is one step; fewer where it is longer.
    """
    look = LOOKS[name]
    pairs = pairs if look.steps == 1 else max(FEWEST_PAIRS, pairs // 4)
    bare, looked_at = Loop(size), Loop(size)
    for loop in (bare, looked_at):
        for seed in range(WARM_STEPS):
            loop.step(seed)
    with look.open(looked_at) as on:
        for seed in range(WARM_STEPS, len(looked_at.losses)):
            bare.step(seed)
        times = in_turns(((bare, nullcontext), (looked_at, on)), pairs, look.steps)
    return Contest(
        model="three projections per head" if size.split_heads else "one projection for all heads",
        looks=name,
        pairs=pairs,
        steps=look.steps,
        cpu=cost(times[0].cpu, times[1].cpu),
        wall=cost(times[0].wall, times[1].wall),
        same_losses=bare.losses == looked_at.losses,
    )


def in_turns(sides: Sequence[tuple[Loop, On]], pairs: int, steps: int) -> tuple[Times, Times]:
    """Blocks of steps by the one and the other; who begins changes from pair to pair."""
    times = Times(), Times()
    first = len(sides[0][0].losses)
    for pair in range(pairs):
        seeds = range(first + pair * steps, first + (pair + 1) * steps)
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            loop, on = sides[side]
            with on():
                timed(loop, times[side], seeds)
    return times


def timed(loop: Loop, into: Times, seeds: Sequence[int]) -> None:
    """A block of steps; what an earlier block left to be collected is collected before."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    for seed in seeds:
        loop.step(seed)
    into.cpu.append((time.process_time() - cpu) / len(seeds))
    into.wall.append((time.perf_counter() - wall) / len(seeds))


def cost(bare: Sequence[float], looked_at: Sequence[float]) -> Cost:
    """Seconds of paired blocks, compared.

    >>> cost([2.0, 4.0, 8.0], [3.0, 6.0, 12.0]).ratio
    1.5
    """
    ratios = sorted(b / a for a, b in zip(bare, looked_at, strict=True))
    low, high = interval_of_median(ratios)
    first, _, third = statistics.quantiles(ratios, n=4, method="inclusive")
    return Cost(
        bare_ms=1000 * statistics.median(bare),
        looked_at_ms=1000 * statistics.median(looked_at),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        quartiles=(first, third),
    )


def interval_of_median(ordered: Sequence[float]) -> tuple[float, float]:
    """The innermost pair of order statistics that holds the median with CONFIDENCE; the outermost where none does.

    A value lies below the median as often as a coin falls on its head.

    >>> interval_of_median([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
    (1.0, 13.0)
    """
    n, outside, rank = len(ordered), 0.0, 0
    while 2 * (outside + math.comb(n, rank) / 2**n) <= 1 - CONFIDENCE:
        outside += math.comb(n, rank) / 2**n
        rank += 1
    return ordered[max(rank, 1) - 1], ordered[n - max(rank, 1)]


def run(
    size: Size = SEED_SIZE, *, pairs: int, on_done: Callable[[int, int], None] = lambda done, of: None
) -> list[Contest]:
    """Every way of looking, at both models."""
    sizes = size, replace(size, split_heads=True)
    found: list[Contest] = []
    for each in sizes:
        for name in LOOKS:
            found.append(contest(each, name, pairs=pairs))
            on_done(len(found), len(sizes) * len(LOOKS))
    return found


def write(folder: Path, found: Sequence[Contest]) -> None:
    """The figures as JSON."""
    about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.platform()}
    figures = json.dumps(about | {"contests": [asdict(each) for each in found]}, indent=1)
    write_text(folder / "observation.json", figures + "\n")
