"""Trials: the loss without and with an intervention, over paired seeds."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import Bench, open_bench, random_tokens
from diagnostics.levels import bits_per_byte
from diagnostics.probes.one_batch import lowest_possible
from diagnostics.subject import Batch, Subject

Regime = Literal["one batch", "fresh batches"]

CONFIRMED_SHARE = 0.8  # of the loss above the reference must go away; ours
ERRORS_BEATEN = 2.0  # an effect is seen at twice its paired standard error; ours
HELDOUT_BATCHES = 50  # for one honest loss
FITTED_BELOW = 0.02  # nats: one batch is learned; a rate that is too high can lose it again later


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one training run came to.

    Args:
        curve: training loss per step, nats per token.
        final: median of the curve's last tenth.
        honest: loss on text that is never trained on (in the regime "one batch": on that very batch), each token
            predicted from its context alone, in the way the model generates; nats per token. None if not measurable.
        bits_per_byte: the honest loss on held-out text in bits per byte; None without a text view.
        lowest_possible: what no honest model can beat on the one batch (equal contexts, different targets), nats.
        failure: what the run raised, in one line.
    """

    regime: Regime
    seed: int
    curve: tuple[float, ...] = ()
    final: float = math.nan
    honest: float | None = None
    bits_per_byte: float | None = None
    lowest_possible: float = 0.0
    failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A loss without (``before``) and with (``after``) an intervention, one pair per seed.

    Args:
        question: what is compared, in words.
        quantity: which loss, with its unit.
        reference: the loss that a sound setup reaches here, in the same unit.
    """

    question: str
    quantity: str
    seeds: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    reference: float

    @property
    def effect(self) -> float:
        """How much of the loss goes away: the mean paired difference."""
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
        above = statistics.fmean(self.before) - self.reference
        return self.effect / above if above > 0 else 0.0

    @property
    def counts(self) -> bool:
        """Whether the effect beats both the paired error and the seed spread."""
        return self.effect > ERRORS_BEATEN * self.effect_error and self.effect > self.seed_spread

    @property
    def harms(self) -> bool:
        """Whether the loss is worse with the intervention, by more than the paired error and the seed spread."""
        return -self.effect > ERRORS_BEATEN * self.effect_error and -self.effect > self.seed_spread

    @property
    def confirms(self) -> bool:
        """Whether removing this took most of the loss away: it counts and is at least CONFIRMED_SHARE."""
        return self.counts and self.share >= CONFIRMED_SHARE


def train_once(subject: Subject, *, regime: Regime, seed: int, steps: int) -> Outcome:
    """One training run from a freshly initialised model; what the subject raises becomes the outcome's failure."""
    if subject.build is None:
        raise ValueError(f"a trial needs Subject.build; {subject.name} has none")
    try:
        with open_bench(subject, seed) as bench:
            one = regime == "one batch"
            curve = bench.train(
                bench.one_batch() if one else bench.fresh_batches(), steps, stop_below=FITTED_BELOW if one else None
            )
            honest = honest_loss(bench, [bench.batch(0)] if one else bench.heldout_batches(HELDOUT_BATCHES))
            lowest = lowest_possible(bench) if one else 0.0
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
        bits_per_byte=bits,
        lowest_possible=lowest,
    )


def resting(curve: list[float]) -> float:
    """Where a curve has come to: the median of its last tenth."""
    return statistics.median(curve[-max(1, len(curve) // 10) :])


@torch.no_grad()
def honest_loss(bench: Bench, batches: Iterable[Batch]) -> float | None:
    """Loss of the bench's model on these batches with nothing leaked, in evaluation mode.

    A language model predicts the last token of each window from the tokens before it, in the way it generates text
    where the token view says how, otherwise with the last token replaced by a random one wherever the model could read
    it. Any other model is asked for its loss as it stands.
    """
    model = bench.model.eval()
    batches = list(batches)
    if bench.subject.token_view is None:
        return float(torch.stack([bench.loss(model, batch) for batch in batches]).mean())
    total, count = 0.0, 0
    for batch in batches:
        scores, targets = last_scores(bench, model, batch)
        total += float(F.cross_entropy(scores, targets, reduction="sum"))
        count += len(targets)
    model.train()
    return total / count


def last_scores(
    bench: Bench, model: nn.Module, batch: Batch
) -> tuple[Float[Tensor, "batch vocab"], Int[Tensor, " batch"]]:
    """Scores for the last token of each window from those before it, and that token."""
    view = bench.tokens
    stream = view.tokens(batch)
    context, target = stream[:, :-1], stream[:, -1]
    if view.next_logits is not None:
        return view.next_logits(model, context), target
    blind = torch.cat((context, random_tokens(view, target[:, None], generator_seed=bench.seed)), dim=1)
    return view.logits(model, view.with_tokens(batch, blind))[:, -1], target


def first_batches(subject: Subject, count: int, seed: int = 0) -> list[Batch]:
    """The first batches of one pass."""
    return list(islice(subject.batches(seed), count))
