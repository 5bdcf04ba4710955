"""Better, worse, or too few seeds to tell: against scipy's own tests, and in words."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.contrast import LEVEL, POWER, contrast, seeds_needed

A = {2: 2.31, 3: 2.44, 5: 2.38, 7: 2.35, 11: 2.41}
B = {2: 2.27, 3: 2.41, 5: 2.33, 7: 2.32, 11: 2.36}


def test_the_same_seeds_are_compared_pair_by_pair() -> None:
    found = contrast("b", B, "a", A, metric="val/bits_per_byte")
    theirs = stats.ttest_rel(list(B.values()), list(A.values()))
    low, high = theirs.confidence_interval(0.95)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.difference - found.half_width, found.difference + found.half_width) == pytest.approx((low, high))
    assert found.sentence == "b is better than a by 0.040 +- 0.012 bits/byte, 5 seeds, paired"


def test_the_better_one_comes_first_whichever_is_asked_about() -> None:
    assert contrast("a", A, "b", B, metric="val/loss").sentence.startswith("b is better than a by 0.040 +- 0.012")
    assert contrast("a", A, "b", B, metric="val/accuracy").sentence.startswith("a is better than b by 0.040 +- 0.012")


def test_other_seeds_are_compared_by_welchs_test() -> None:
    others = {seed + 100: loss for seed, loss in B.items() if seed != 11}
    found = contrast("b", others, "a", A, metric="val/bits_per_byte")
    theirs = stats.ttest_ind(list(others.values()), list(A.values()), equal_var=False)
    assert (found.kind, found.seeds) == ("welch", 4)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.sentence.startswith(
        "cannot tell b from a (-0.046 +- 0.090 bits/byte, at least 4 seeds each, unpaired): "
    )
    assert found.more_seeds == seeds_needed(found.difference / math.sqrt(variance(others, A)), "welch") - 4
    assert found.sentence.endswith(
        f"needs about {found.more_seeds} more seeds, if the difference is as large as it looks"
    )


def variance(*groups: dict[int, float]) -> float:
    """The mean of the variances of both groups."""
    return float(np.mean([np.var(list(group.values()), ddof=1) for group in groups]))


def test_one_seed_tells_nothing() -> None:
    found = contrast("b", {0: 2.0}, "a", {0: 3.0}, metric="val/loss")
    assert (found.kind, found.is_told) == ("too few", False)
    assert found.sentence == (
        "cannot tell b from a (-1 nats/token): one seed says nothing about chance; "
        "run at least 2 more of each, with the same seeds"
    )


def test_a_difference_without_any_spread_needs_no_test() -> None:
    same = contrast("b", {0: 2.0, 1: 3.0}, "a", {0: 2.0, 1: 3.0}, metric="val/loss")
    assert same.sentence == "cannot tell b from a (0.00 +- 0.00 nats/token, 2 seeds, paired): they came to the same"
    better = contrast("b", {0: 2.0, 1: 3.0}, "a", {0: 2.5, 1: 3.5}, metric="val/loss")
    assert better.sentence == "b is better than a by 0.50 +- 0.00 nats/token, 2 seeds, paired"
    apart = contrast("b", {0: 2.0, 1: 2.0}, "a", {2: 2.5, 3: 2.5}, metric="val/loss")
    assert apart.sentence == "b is better than a by 0.50 +- 0.00 nats/token, at least 2 seeds each, unpaired"


@pytest.mark.parametrize("effect", [0.3, 0.7, 1.1])
def test_the_seeds_that_are_asked_for_give_the_power_that_is_promised(effect: float) -> None:
    """Power by the noncentral t distribution, exact; the formula may be off by one seed."""
    for kind, scale in (("paired", 1.0), ("welch", 0.5)):
        seeds = seeds_needed(effect, kind)
        assert power(effect, seeds + 1, kind, scale) >= POWER
        assert power(effect, seeds - 2, kind, scale) < POWER


def power(effect: float, seeds: int, kind: str, scale: float) -> float:
    """How often a two-sided t-test finds an effect of so many standard deviations."""
    freedom = seeds - 1 if kind == "paired" else 2 * (seeds - 1)
    shift = effect * math.sqrt(seeds * scale)
    line = stats.t.ppf(1 - LEVEL / 2, freedom)
    return float(stats.nct.sf(line, freedom, shift) + stats.nct.cdf(-line, freedom, shift))


def test_a_difference_that_no_reasonable_number_of_seeds_would_show_is_called_that() -> None:
    values = {seed: 2.0 + 0.1 * (-1) ** seed for seed in range(10)}
    shifted = {seed: 2.0001 - 0.1 * (-1) ** seed for seed in range(10)}
    found = contrast("b", shifted, "a", values, metric="val/loss")
    assert found.more_seeds is None
    assert found.sentence.endswith("1,000 seeds would not do, if the difference is as large as it looks")
