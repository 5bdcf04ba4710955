"""needs-more-steps and at-the-entropy-floor: the reasons that are no faults."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diagnostics.fault import Verdict
from diagnostics.faults import at_the_entropy_floor, needs_more_steps
from diagnostics.levels import ReferenceLevel
from diagnostics.probes.entropy_floor import distinct_stretches, measure_floor
from diagnostics.probes.loss_curve import measure_curve
from diagnostics.subject import Subject
from tests import subjects

STEPS, FLOOR = needs_more_steps.FAULT, at_the_entropy_floor.FAULT
VerdictOf = Callable[..., Verdict]


def noisy(values: torch.Tensor, spread: float = 0.02, seed: int = 0) -> list[float]:
    errors = torch.randn(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (values + spread * errors).tolist()


def falling(count: int) -> torch.Tensor:
    return 1.5 + 4 * torch.arange(1, count + 1, dtype=torch.float64) ** -0.3


def standing_at(nats: float, count: int = 211) -> list[float]:
    return noisy(torch.full((count,), nats, dtype=torch.float64), spread=0.01)


def test_a_curve_that_follows_a_power_law_needs_more_steps() -> None:
    unigram = ReferenceLevel(name="unigram", nats=2.0, means="")
    verdict = STEPS.judge(measure_curve(noisy(falling(307)), levels=(unigram,)))
    assert verdict.status == "present"
    assert "it reaches the unigram level (2.000) at about step" in verdict.because


def test_without_a_level_below_half_of_what_is_left_is_named() -> None:
    verdict = STEPS.judge(measure_curve(noisy(falling(307))))
    assert "half of what is left to its floor" in verdict.because


def test_a_fall_that_is_no_power_law_gets_no_date() -> None:
    steps = torch.arange(1, 308, dtype=torch.float64)
    verdict = STEPS.judge(measure_curve(noisy(2 + 5 * torch.exp(-((steps / 250) ** 8)))))
    assert verdict.status == "present"
    assert "no power law fits it" in verdict.because


@pytest.mark.parametrize("seed", range(11))
def test_a_curve_that_stands_still_is_silent(seed: int) -> None:
    curve = noisy(torch.full((211,), 9.0, dtype=torch.float64), spread=0.05, seed=seed)
    assert STEPS.judge(measure_curve(curve)).status != "present"


def test_a_curve_that_dropped_once_and_stands_is_absent() -> None:
    drop = torch.cat([torch.linspace(9.4, 9, 31), torch.full((211,), 8.995)]).double()
    verdict = STEPS.judge(measure_curve(noisy(drop, spread=0.003)))
    assert verdict.status == "absent"


def test_an_exactly_constant_curve_is_absent() -> None:
    assert STEPS.judge(measure_curve([8.995] * 101)).status == "absent"


def test_few_points_decide_nothing() -> None:
    assert STEPS.judge(measure_curve(noisy(falling(37)))).status == "unclear"


def test_a_rising_curve_is_absent() -> None:
    assert STEPS.judge(measure_curve([2 + step / 100 for step in range(101)])).status == "absent"


@pytest.mark.parametrize("make", subjects.HEALTHY.values(), ids=subjects.HEALTHY.keys())
def test_a_planted_fall_is_explained_on_every_subject(make: Callable[[], Subject], verdict_of: VerdictOf) -> None:
    assert STEPS.plant is not None
    assert verdict_of(STEPS, STEPS.plant(make())).status == "present"


@pytest.mark.parametrize("name", ["torch-encoder", "gru", "gpt2", "encoder-decoder"])
def test_planted_random_tokens_are_explained(name: str, verdict_of: VerdictOf) -> None:
    assert FLOOR.plant is not None
    assert verdict_of(FLOOR, FLOOR.plant(subjects.HEALTHY[name]())).status == "present"


def test_random_tokens_need_a_token_view() -> None:
    assert FLOOR.plant is not None
    with pytest.raises(ValueError, match="mlp has no token view"):
        FLOOR.plant(subjects.mlp())


@pytest.mark.parametrize(
    ("nats", "status"),
    [
        (subjects.LOWEST_LOSS, "present"),
        (subjects.LOWEST_LOSS + 0.07, "unclear"),
        (subjects.LOWEST_LOSS + 0.5, "absent"),
        (subjects.LOWEST_LOSS - 0.5, "absent"),
        (math.log(subjects.VOCAB), "absent"),
    ],
)
def test_the_markov_chain_has_a_floor_at_the_log_of_its_branches(
    nats: float, status: str, verdict_of: VerdictOf
) -> None:
    assert verdict_of(FLOOR, subjects.with_history(subjects.gru(), standing_at(nats))).status == status


def stretches_of(stream: torch.Tensor) -> torch.Tensor:
    return distinct_stretches(iter([stream[None]]))


def test_a_second_token_back_that_tells_more_lowers_the_floor() -> None:
    noise = torch.randint(2, (5003,), generator=torch.Generator().manual_seed(0))
    stream = [0, 1]
    for bit in noise.tolist():
        stream.append((stream[-1] + stream[-2] + bit) % 5)
    floor = measure_floor(stretches_of(torch.tensor(stream)), seed=0)
    assert FLOOR.judge(floor, measure_curve(standing_at(floor.bigram))).status == "absent"
    assert FLOOR.judge(floor, measure_curve(standing_at(math.log(2)))).status == "unclear"


def test_too_few_pairs_decide_nothing() -> None:
    chain = torch.cumsum(torch.randint(3, (2003,), generator=torch.Generator().manual_seed(0)), 0) % 997
    floor = measure_floor(stretches_of(chain), seed=0)
    assert floor.bigram_correction > at_the_entropy_floor.THIN
    assert FLOOR.judge(floor, measure_curve(standing_at(2.0))).status == "unclear"


def test_many_types_seldom_seen_have_no_certain_unigram_entropy() -> None:
    stream = torch.randint(1009, (2003,), generator=torch.Generator().manual_seed(0))
    floor = measure_floor(stretches_of(stream), seed=0)
    assert FLOOR.judge(floor, measure_curve(standing_at(floor.unigram))).status == "unclear"


def test_an_empty_neighbourhood_leaves_the_frequencies() -> None:
    floor = replace(measure_floor(torch.tensor([[1], [2]]), seed=0), unigram_correction=0.0)
    assert FLOOR.judge(floor, measure_curve(standing_at(floor.unigram))).status == "present"
