"""A seeded, private copy of a subject that one probe may do anything to."""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice, repeat

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.copies import model_copy, private_model
from diagnostics.subject import Batch, Subject, TokenView

EPOCH = 7919  # between the seeds of one pass over the data and the next
FROZEN_STEPS = 10  # this many steps in a row without any gradient, and nothing can move any more


@dataclass(frozen=True, kw_only=True)
class Step:
    """One optimizer step, seen between backward and the update (``before_update``) or after it (with its loss)."""

    index: int
    loss: float = math.nan
    model: nn.Module
    optimizer: Optimizer


@dataclass
class Bench:
    """A subject's model, data and randomness for one probe. Made by ``open_bench``.

    ``model`` is freshly initialised from the seed where the subject can do that, otherwise a copy of the model as it
    stands; ``standing_model()`` is always a copy of the model as it stands. A model that cannot be copied is lent: both
    are the subject's own model, as it stands whenever it is asked for, and it is put back when the bench closes.
    """

    subject: Subject
    seed: int
    model: nn.Module
    _batches: list[Batch] = field(default_factory=list)
    _source: Iterator[Batch] | None = None
    _lent: ExitStack = field(default_factory=ExitStack)

    @property
    def tokens(self) -> TokenView:
        """The token view; a probe that uses it names it in ``needs``."""
        assert self.subject.token_view is not None, "the probe uses a token view that it does not name in needs"
        return self.subject.token_view

    def standing_model(self) -> nn.Module:
        """A copy of the model in the state in which its loss stands."""
        try:
            return model_copy(self.subject.model)
        except ValueError:  # it is the bench's model too: first what was done to it is undone
            self._lent.close()
            return self._lent.enter_context(private_model(self.subject.model))

    def batch(self, index: int = 0) -> Batch:
        """The batch at this index of the pass over the data that belongs to the bench's seed."""
        if self._source is None:
            self._source = passes(self.subject.batches, self.seed)
        while len(self._batches) <= index:
            self._batches.append(next(self._source))
        return self._batches[index]

    def heldout_batches(self, count: int) -> list[Batch]:
        """Up to ``count`` batches that are never trained on; training batches where the subject keeps none apart."""
        if self.subject.heldout is None:
            return [self.batch(index) for index in range(count)]
        return list(islice(self.subject.heldout(self.seed), count))

    def fresh_batches(self) -> Iterator[Batch]:
        """An endless stream of training batches: the subject's passes, one after the other."""
        return passes(self.subject.batches, self.seed)

    def one_batch(self) -> Iterator[Batch]:
        """The first batch, again and again."""
        return repeat(self.batch(0))

    def loss(self, model: nn.Module | None = None, batch: Batch | None = None) -> Float[Tensor, ""]:
        """The subject's loss of the bench's model on its first batch, unless told otherwise."""
        return self.subject.loss(self.model if model is None else model, self.batch(0) if batch is None else batch)

    def train(
        self,
        batches: Iterable[Batch],
        steps: int,
        *,
        before_update: Callable[[Step], None] | None = None,
        after_update: Callable[[Step], None] | None = None,
        stop_below: float | None = None,
    ) -> list[float]:
        """Losses of ``steps`` optimizer steps of the bench's model, done as the subject does them.

        Stops early where nothing can change any more: the loss is not finite, every gradient has been exactly zero
        for ``FROZEN_STEPS`` steps, or the loss is below ``stop_below`` nats.
        """
        subject, model = self.subject, self.model
        model.train()
        optimizer = subject.optimizer(model)
        rates = [group["lr"] for group in optimizer.param_groups]
        losses: list[float] = []
        frozen = 0
        for index, batch in enumerate(islice(batches, steps)):
            set_rates(optimizer, rates, 1.0 if subject.schedule is None else subject.schedule(index))
            with self._before_update(optimizer, index, before_update) as moving:
                loss = self._step(optimizer, batch)
            losses.append(float(loss.detach()))
            frozen = 0 if moving else frozen + 1
            if after_update is not None:
                after_update(Step(index=index, loss=losses[-1], model=model, optimizer=optimizer))
            below = stop_below is not None and losses[-1] < stop_below
            if below or frozen >= FROZEN_STEPS or not torch.isfinite(loss):
                break
        return losses

    def _step(self, optimizer: Optimizer, batch: Batch) -> Float[Tensor, ""]:
        """One optimizer step: the user's own, or in the usual order."""
        if self.subject.step is not None:
            return self.subject.step(self.model, optimizer, batch)
        optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch=batch)
        loss.backward()
        optimizer.step()
        return loss

    @contextmanager
    def _before_update(
        self, optimizer: Optimizer, index: int, before_update: Callable[[Step], None] | None
    ) -> Iterator[list[bool]]:
        """Inside, ``optimizer.step`` first looks at the gradients and clips them; the list says that some moved."""
        moving: list[bool] = []

        def look(*_: object) -> None:
            if before_update is not None:
                before_update(Step(index=index, model=self.model, optimizer=optimizer))
            if has_gradient(self.model):
                moving.append(True)
            if self.subject.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.subject.clip_norm)

        handle = optimizer.register_step_pre_hook(look)
        try:
            yield moving
        finally:
            handle.remove()


def passes(batches: Callable[[int], Iterator[Batch]], seed: int) -> Iterator[Batch]:
    """The subject's passes over its data, one after the other, each with a seed of its own."""
    return chain.from_iterable(batches(seed + EPOCH * epoch) for epoch in iter(range(10**6)))


def set_rates(optimizer: Optimizer, rates: list[float], factor: float) -> None:
    """Set every group's learning rate to its own base rate times a factor."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor


def has_gradient(model: nn.Module) -> bool:
    """Whether any parameter has a gradient that is not exactly zero."""
    return any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Seed python and torch inside, give back the caller's random state afterwards."""
    python_state = random.getstate()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)


@contextmanager
def open_bench(subject: Subject, seed: int) -> Iterator[Bench]:
    """A bench for one probe; the caller's model, mode and random state are as before afterwards."""
    with private_randomness(seed), torch.enable_grad(), ExitStack() as lent:
        private = private_model(subject.model) if subject.build is None else nullcontext(subject.build(seed))
        model = lent.enter_context(private)
        torch.manual_seed(seed)
        yield Bench(subject=subject, seed=seed, model=model, _lent=lent)


def random_tokens(view: TokenView, like: Int[Tensor, "*shape"], generator_seed: int) -> Int[Tensor, "*shape"]:
    """Uniformly random token ids of the same shape and device, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(generator_seed)
    drawn = torch.randint(view.vocab_size, tuple(like.shape), generator=generator)
    return drawn.to(device=like.device, dtype=like.dtype)
