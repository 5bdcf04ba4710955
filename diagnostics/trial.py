"""Trials: the loss without and with an intervention, over paired seeds."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import Bench, open_bench, random_tokens
from diagnostics.levels import bits_per_byte
from diagnostics.model_call import shift_of
from diagnostics.probes.one_batch import lowest_possible
from diagnostics.probes.random_token_loss import learn_random_tokens
from diagnostics.probes.untrained_loss import kept_targets
from diagnostics.smoothing import NONE, smoothing
from diagnostics.subject import Batch, Subject, TokenView

Regime = Literal["one batch", "fresh batches", "random tokens"]

CONFIRMED_SHARE = 0.8  # of the loss above the reference must go away; ours
ERRORS_BEATEN = 2.0  # an effect is seen at twice its paired standard error; ours
SHAM_SHARE = 0.5  # of an effect: what does nothing must do less than this; ours
HELDOUT_BATCHES = 50  # for one honest loss
SHOWN_BATCHES = 8  # training batches on which the loss is looked at with and without its answers
FITTED_BELOW = 0.02  # nats: one batch is learned; a rate that is too high can lose it again later


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one training run came to.

    Args:
        curve: training loss per step, nats per token.
        final: median of the curve's last tenth.
        honest: loss on text that is never trained on (in the regime "one batch": on that very batch), each token
            predicted from its context alone, in the way the model generates; nats per token. None if not measurable.
        hidden: what the training loss hides: on the training batches, the loss of each window's last token once its
            answer is replaced wherever the model could read it, minus the loss with the answer in place; evaluation
            mode, nats per token. Exactly 0 where nothing leaks. In the regime "random tokens": how far the loss on
            tokens that nobody can predict is below what is possible. None without a token view.
        evaluated: the validation loss as the user computes it; None where the subject does not say how.
        bits_per_byte: the honest loss on held-out text in bits per byte; None without a text view.
        lowest_possible: what no honest model can beat on the one batch (equal contexts, different targets, smoothed
            labels), nats.
        honest_lowest: what smoothed labels leave of the honest loss once the one batch is known by heart, nats.
        failure: what the run raised, in one line.
    """

    regime: Regime
    seed: int
    curve: tuple[float, ...] = ()
    final: float = math.nan
    honest: float | None = None
    hidden: float | None = None
    evaluated: float | None = None
    bits_per_byte: float | None = None
    lowest_possible: float = 0.0
    honest_lowest: float = 0.0
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A loss without (``before``) and with (``after``) an intervention, one pair per seed.

    Args:
        question: what is compared, in words.
        quantity: which loss, with its unit.
        reference: the loss that a sound setup reaches here, in the same unit.
        sham: the loss with a placebo instead, one per seed: every mechanism of an intervention, and no change. Empty:
            none was run.
        regime: how both sides were trained.
        repaired: faults that are repaired on the side ``before`` already.
        steps: optimizer steps after which both sides are compared; None: at the end of the run.
        start: mean loss before the first step; NaN where it is not known.
    """

    question: str
    quantity: str
    seeds: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    reference: float
    sham: tuple[float, ...] = ()
    regime: Regime = "one batch"
    repaired: tuple[str, ...] = ()
    steps: int | None = None
    start: float = math.nan

    @property
    def rescues(self) -> bool:
        """Whether every run diverges without the intervention, and none with it."""
        return bool(self.before) and not any(map(math.isfinite, self.before)) and all(map(math.isfinite, self.after))

    @property
    def effect(self) -> float:
        """How much of the loss goes away: the mean paired difference; infinite where a diverging loss is rescued."""
        if self.rescues:
            return math.inf
        return statistics.fmean(self.before) - statistics.fmean(self.after)

    @property
    def effect_error(self) -> float:
        """Standard error of the effect over pairs; infinite for a single pair, or where a loss is not finite."""
        differences = [b - a for b, a in zip(self.before, self.after, strict=True)]
        if len(differences) < 2 or not all(map(math.isfinite, differences)):
            return math.inf
        return statistics.stdev(differences) / math.sqrt(len(differences))

    @property
    def seed_spread(self) -> float:
        """What a seed alone does: the larger standard deviation of the two sides; infinite where it is unknown."""
        if len(self.seeds) < 2 or not all(map(math.isfinite, (*self.before, *self.after))):
            return math.inf
        return max(statistics.stdev(self.before), statistics.stdev(self.after))

    @property
    def share(self) -> float:
        """The share of the loss above the reference that goes away; 0 where there is none to lose."""
        if self.rescues:
            return 1.0
        above = statistics.fmean(self.before) - self.reference
        return self.effect / above if above > 0 else 0.0

    @property
    def counts(self) -> bool:
        """Whether the effect beats both the paired error and the seed spread, or a diverging loss is rescued."""
        return self.rescues or (self.effect > ERRORS_BEATEN * self.effect_error and self.effect > self.seed_spread)

    @property
    def harms(self) -> bool:
        """Whether the loss is worse with the intervention, by more than the paired error and the seed spread."""
        return -self.effect > ERRORS_BEATEN * self.effect_error and -self.effect > self.seed_spread

    @property
    def sham_effect(self) -> float | None:
        """How much of the loss goes away with the placebo; None where none was run."""
        if not self.sham:
            return None
        return 0.0 if self.rescues else statistics.fmean(self.before) - statistics.fmean(self.sham)

    @property
    def beats_sham(self) -> bool:
        """Whether the placebo does less than SHAM_SHARE of what the intervention does, or none was run."""
        return self.sham_effect is None or abs(self.sham_effect) < SHAM_SHARE * abs(self.effect)

    @property
    def confirms(self) -> bool:
        """Whether removing this took most of the loss away, and a placebo did not: it counts and is at least
        CONFIRMED_SHARE."""
        return self.counts and self.share >= CONFIRMED_SHARE and self.beats_sham


def train_once(subject: Subject, *, regime: Regime, seed: int, steps: int) -> Outcome:
    """One training run from a freshly initialised model; what the subject raises becomes the outcome's failure."""
    if subject.build is None:
        raise ValueError(f"a trial needs Subject.build; {subject.name} has none")
    try:
        with open_bench(subject, seed) as bench:
            if regime == "random tokens":
                return impossible(bench, steps)
            one = regime == "one batch"
            curve = bench.train(
                bench.one_batch() if one else bench.fresh_batches(), steps, stop_below=FITTED_BELOW if one else None
            )
            honest = honest_loss(bench, [bench.batch(0)] if one else bench.heldout_batches(HELDOUT_BATCHES))
            smoothed = smoothing(bench) if one else NONE
            lowest = lowest_possible(bench) + smoothed.floor if one else 0.0
            hidden = None if one else hidden_loss(bench)
            evaluated = None if one or subject.evaluate is None else float(subject.evaluate(bench.model))
    except Exception as error:  # a stranger's code, changed by us, may raise anything
        return Outcome(regime=regime, seed=seed, failure=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    text = subject.text_view
    bits = None
    if text is not None and honest is not None and not one:
        bits = bits_per_byte(honest, len(text.heldout_tokens), text.heldout_bytes)
    return Outcome(
        regime=regime,
        seed=seed,
        curve=tuple(curve),
        final=resting(curve),
        honest=honest,
        hidden=hidden,
        evaluated=evaluated,
        bits_per_byte=bits,
        lowest_possible=lowest,
        honest_lowest=smoothed.left,
    )


def impossible(bench: Bench, steps: int) -> Outcome:
    """How far below the possible a model gets on tokens that nobody can predict."""
    learned = learn_random_tokens(bench, steps)
    gained = learned.bound - learned.loss
    return Outcome(regime="random tokens", seed=bench.seed, curve=(learned.bound,), final=learned.loss, hidden=gained)


def resting(curve: list[float]) -> float:
    """Where a curve has come to: the median of its last tenth."""
    return statistics.median(curve[-max(1, len(curve) // 10) :])


@torch.no_grad()
def honest_loss(bench: Bench, batches: Iterable[Batch]) -> float | None:
    """Loss of the bench's model on these batches with nothing leaked, in evaluation mode.

    A language model predicts the last target of each window from the tokens before it, in the way it generates text
    where the token view says how, otherwise with that token replaced by a random one wherever the model could read it.
    Any other model, and one whose last targets are all padding, is asked for its loss as it stands.
    """
    model, batches, loss = bench.model.eval(), list(batches), None
    if bench.subject.token_view is not None and all(answer_at(bench.tokens, batch) is not None for batch in batches):
        loss = mean_loss(bench.tokens, [(batch, last_scores(bench, model, batch)) for batch in batches])
    if loss is None and batches:
        loss = statistics.fmean(float(bench.loss(model, batch)) for batch in batches)
    model.train()
    return loss


@torch.no_grad()
def hidden_loss(bench: Bench) -> float | None:
    """How much worse the last target of each training window is predicted once it is replaced, nats per token.

    The honest loss of the windows minus the one that training shows; both on the same training batches and in
    evaluation mode, so that what is left is what the answer itself gives away. None without a token view.
    """
    view, model = bench.subject.token_view, bench.model.eval()
    batches = [bench.batch(index) for index in range(SHOWN_BATCHES)]
    if view is None or any(answer_at(view, batch) is None for batch in batches):
        return None
    shown = mean_loss(view, [(batch, view.logits(model, batch)[:, -1]) for batch in batches])
    blind = mean_loss(view, [(batch, view.logits(model, without_answer(bench, batch))[:, -1]) for batch in batches])
    model.train()
    return None if shown is None or blind is None else blind - shown


def answer_at(view: TokenView, batch: Batch) -> int | None:
    """The place of the last target in the stream; None where the targets are no stretch of it.

    The last one in next-token prediction; an earlier one where the targets are the inputs themselves.
    """
    stream = view.tokens(batch)
    shift = shift_of(view, batch, stream)
    place = None if shift is None else view.targets(batch).shape[1] - 1 + shift
    return place if place is not None and 0 < place < stream.shape[1] else None


def mean_loss(view: TokenView, scored: Sequence[tuple[Batch, Float[Tensor, "_ _"]]]) -> float | None:
    """Cross-entropy of the batches' last targets, those left out aside; None where none counts."""
    total, count = 0.0, 0
    for batch, scores in scored:
        targets = kept_targets(view, batch)[:, -1]
        total += float(F.cross_entropy(scores.float().cpu(), targets, ignore_index=-1, reduction="sum"))
        count += int((targets >= 0).sum())
    return total / count if count else None


def last_scores(bench: Bench, model: nn.Module, batch: Batch) -> Float[Tensor, "batch vocab"]:
    """Scores for the last target of each window from the tokens before it."""
    view = bench.tokens
    if view.next_logits is not None:
        return view.next_logits(model, view.tokens(batch)[:, : answer_at(view, batch)])
    return view.logits(model, without_answer(bench, batch))[:, -1]


def without_answer(bench: Bench, batch: Batch) -> Batch:
    """The batch with the last target of each window, and what comes after it, replaced by random tokens."""
    view, place = bench.tokens, answer_at(bench.tokens, batch)
    stream = view.tokens(batch)
    other = random_tokens(view, stream[:, place:], generator_seed=bench.seed)
    return view.with_tokens(batch, torch.cat((stream[:, :place], other), dim=1))


def first_batches(subject: Subject, count: int, seed: int = 0) -> list[Batch]:
    """The first batches of one pass."""
    return list(islice(subject.batches(seed), count))
