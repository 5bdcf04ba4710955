"""How much earlier tokens tell about the next one, counted on the training targets."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.levels import entropy
from diagnostics.probe import Probe
from diagnostics.probes.untrained_loss import kept_targets

TOKENS = 40_000  # targets looked at, at most
BATCHES = 400
SPAN = 8  # tokens in a stretch by which overlapping windows are recognised
SHUFFLES = 12


@dataclass(frozen=True, kw_only=True)
class Information:
    """What an earlier token tells about the next one.

    Args:
        nats: mutual information as counted.
        by_chance / chance_spread: mean and standard deviation of the same after shuffling, which leaves none.
    """

    nats: float
    by_chance: float
    chance_spread: float

    @property
    def excess(self) -> float:
        """Nats beyond what counting finds by chance."""
        return self.nats - self.by_chance


@dataclass(frozen=True, kw_only=True)
class EntropyFloor:
    """Entropies of the training targets, in nats per token, corrected for the bias of counting (Miller-Madow).

    Stretches of the stream that occur more than once, as in overlapping windows, are counted once.

    Args:
        stretches: different stretches that were counted.
        unigram / unigram_correction: entropy of the token frequencies; the correction that is in it.
        bigram / bigram_correction: H(next | current), and the correction that is in it.
        information: what the token one, two, ... places back tells about the next.
        beyond_current: what the token two back tells when the current one is known.
    """

    stretches: int
    unigram: float
    unigram_correction: float
    bigram: float
    bigram_correction: float
    information: tuple[Information, ...]
    beyond_current: Information | None


def entropy_floor(bench: Bench) -> EntropyFloor:
    """Entropies of the subject's training targets and the information between neighbours."""
    stretches = distinct_stretches(target_rows(bench))
    return measure_floor(stretches, bench.seed)


def target_rows(bench: Bench) -> Iterator[Int[Tensor, "batch time"]]:
    """The targets of batch after batch until enough tokens were seen; -1 where one is left out."""
    seen = 0
    for index in range(BATCHES):
        rows = kept_targets(bench.tokens, bench.batch(index))
        yield rows
        seen += rows.numel()
        if seen >= TOKENS:
            return


def distinct_stretches(windows: Iterator[Int[Tensor, "batch time"]]) -> Int[Tensor, "stretches span"]:
    """Every different stretch of up to SPAN consecutive targets, without those that the loss leaves one out of."""
    rows = list(windows)
    span = min([SPAN, *(window.shape[1] for window in rows)])
    stretches = torch.cat([window.unfold(1, span, 1).reshape(-1, span) for window in rows])
    return torch.unique(stretches[(stretches >= 0).all(dim=1)], dim=0)


def measure_floor(stretches: Int[Tensor, "stretches span"], seed: int) -> EntropyFloor:
    """Entropies of the last token of each stretch, alone and given those before it."""
    if not len(stretches):
        raise ValueError("no stretch of targets without a gap was found; there are no frequencies to count")
    generator = torch.Generator().manual_seed(seed)
    *earlier, following = torch.unbind(stretches, dim=1)
    unigram, unigram_correction = corrected(following)
    before = joint(earlier[-1], following) if earlier else following
    both, both_correction = corrected(before)
    current, current_correction = corrected(earlier[-1]) if earlier else (0.0, 0.0)
    return EntropyFloor(
        stretches=len(stretches),
        unigram=unigram,
        unigram_correction=unigram_correction,
        bigram=both - current,
        bigram_correction=both_correction - current_correction,
        information=tuple(information(token, following, generator) for token in reversed(earlier)),
        beyond_current=(
            information_given(earlier[-2], following, earlier[-1], generator) if len(earlier) > 1 else None
        ),
    )


def corrected(symbols: Int[Tensor, " n"]) -> tuple[float, float]:
    """Entropy of a sample with Miller's correction (types - 1) / (2 n), and that correction.

    Source: Miller 1955, "Note on the bias of information estimates".
    """
    counts = torch.unique(symbols, return_counts=True)[1]
    correction = (len(counts) - 1) / (2 * len(symbols))
    return entropy(counts) + correction, correction


def joint(first: Int[Tensor, " n"], second: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A number per position that is the same exactly where both are the same."""
    return first * (int(second.max()) + 1) + second


def counted(symbols: Int[Tensor, " n"]) -> float:
    """Entropy of a sample as counted."""
    return entropy(torch.unique(symbols, return_counts=True)[1])


def information(earlier: Int[Tensor, " n"], following: Int[Tensor, " n"], generator: torch.Generator) -> Information:
    """Mutual information of two columns, and that of one with the other shuffled."""
    apart = counted(earlier) + counted(following)
    orders = (torch.randperm(len(earlier), generator=generator) for _ in range(SHUFFLES))
    chance = [apart - counted(joint(earlier[order], following)) for order in orders]
    return Information(
        nats=apart - counted(joint(earlier, following)),
        by_chance=statistics.fmean(chance),
        chance_spread=statistics.stdev(chance),
    )


def information_given(
    earlier: Int[Tensor, " n"], following: Int[Tensor, " n"], known: Int[Tensor, " n"], generator: torch.Generator
) -> Information:
    """Mutual information of two columns given a third; by chance: one shuffled among rows that agree in the third."""
    rest = counted(joint(known, following)) - counted(known)

    def nats(column: Int[Tensor, " n"]) -> float:
        context = joint(known, column)
        return rest - (counted(joint(context, following)) - counted(context))

    chance = [nats(shuffled_within(earlier, known, generator)) for _ in range(SHUFFLES)]
    return Information(nats=nats(earlier), by_chance=statistics.fmean(chance), chance_spread=statistics.stdev(chance))


def shuffled_within(
    column: Int[Tensor, " n"], groups: Int[Tensor, " n"], generator: torch.Generator
) -> Int[Tensor, " n"]:
    """A column shuffled among the rows of each group."""
    order = torch.randperm(len(groups), generator=generator)
    by_group = order[torch.argsort(groups[order], stable=True)]
    shuffled = torch.empty_like(column)
    shuffled[torch.argsort(groups, stable=True)] = column[by_group]
    return shuffled


ENTROPY_FLOOR = Probe(
    name="entropy-floor",
    question="How much do earlier tokens tell about the next one at all?",
    measure=entropy_floor,
    needs=("token_view",),
)
