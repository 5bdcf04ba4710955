"""Trials: paired effects with their errors, and honest losses."""

import math
from dataclasses import replace

import pytest
import torch

from diagnostics.bench import open_bench
from diagnostics.trial import Trial, hidden_loss, honest_loss, resting, train_once
from tests import subjects


def trial(before: tuple[float, ...], after: tuple[float, ...], reference: float = 0.0) -> Trial:
    return Trial(
        question="repair x, nothing else repaired",
        quantity="loss of one batch (nats per token)",
        seeds=tuple(range(len(before))),
        before=before,
        after=after,
        reference=reference,
    )


def test_effect_error_and_spread_of_three_pairs_by_hand() -> None:
    found = trial((9.0, 8.0, 10.0), (1.0, 2.0, 0.0))
    assert found.effect == 8.0  # differences 8, 6, 10
    assert found.effect_error == pytest.approx(2 / math.sqrt(3))
    assert found.seed_spread == 1.0
    assert found.share == pytest.approx(8 / 9)
    assert found.confirms


def test_share_is_measured_above_the_reference() -> None:
    assert trial((9.0, 9.0), (8.0, 8.0), reference=8.0).share == 1.0
    assert trial((9.0, 9.0), (8.0, 8.0), reference=0.0).share == pytest.approx(1 / 9)


def test_an_effect_below_the_seed_spread_does_not_count() -> None:
    found = trial((5.0, 1.0, 9.0), (4.9, 0.9, 8.9))
    assert found.effect_error < 1e-9
    assert not found.counts


def test_a_repair_that_makes_the_loss_worse_by_more_than_noise_harms() -> None:
    assert trial((2.0, 2.1), (2.5, 2.6)).harms
    assert not trial((2.0, 2.1), (2.05, 2.1)).harms
    assert not trial((9.0, 9.0), (1.0, 1.0)).harms


def test_a_single_pair_never_counts() -> None:
    assert not trial((9.0,), (0.0,)).counts


def test_a_repair_that_makes_the_loss_explode_is_no_effect() -> None:
    assert not trial((9.0, 9.0), (0.1, math.nan)).counts


def test_a_repair_that_keeps_every_run_from_diverging_counts() -> None:
    found = trial((math.nan, math.inf), (0.1, 0.2))
    assert (found.rescues, found.counts, found.confirms, found.share) == (True, True, True, 1.0)
    assert not trial((9.0, math.nan), (0.1, 0.2)).rescues


def test_what_a_placebo_does_as_well_is_not_confirmed() -> None:
    found = trial((9.0, 9.1), (0.1, 0.2))
    assert found.confirms
    assert replace(found, sham=(9.0, 8.9)).confirms
    assert not replace(found, sham=(2.0, 2.1)).confirms


def test_the_hidden_loss_of_an_honest_model_is_zero_and_that_of_a_copying_one_is_not() -> None:
    with open_bench(subjects.gru(), 0) as bench:
        assert hidden_loss(bench) == 0.0
    unshifted = subjects.encoder_decoder(targets_not_shifted=True)
    found = train_once(unshifted, regime="fresh batches", seed=0, steps=60)
    assert found.hidden is not None
    assert found.hidden > 1.0


def test_resting_is_the_median_of_the_last_tenth() -> None:
    assert resting([9.0] * 90 + [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 100.0]) == 1.0
    assert resting([7.0]) == 7.0


def test_the_same_seed_gives_the_same_outcome() -> None:
    subject = subjects.torch_encoder()
    once, again = (train_once(subject, regime="fresh batches", seed=3, steps=5) for _ in range(2))
    assert once == again
    assert once.curve != train_once(subject, regime="fresh batches", seed=5, steps=5).curve


def test_what_the_subject_raises_becomes_the_outcomes_failure() -> None:
    def broken(model: torch.nn.Module, batch: object) -> torch.Tensor:
        raise RuntimeError("no such thing\nsecond line")

    outcome = train_once(replace(subjects.gru(), loss=broken), regime="one batch", seed=0, steps=2)
    assert outcome.failure == "RuntimeError: no such thing"
    assert math.isnan(outcome.final)


def test_a_trial_without_build_is_refused() -> None:
    subject = replace(subjects.gru(), build=None)
    with pytest.raises(ValueError, match=r"a trial needs Subject.build; gru has none"):
        train_once(subject, regime="one batch", seed=0, steps=1)


def test_honest_loss_hides_the_answer_from_a_model_that_reads_it() -> None:
    """A model whose logits point at the very token to predict looks perfect to the loss and is worthless."""
    cheat = subjects.encoder_decoder(targets_not_shifted=True)
    blind = replace(cheat, token_view=replace(cheat.token_view, next_logits=None))  # type: ignore[type-var]
    with open_bench(blind, seed=0) as bench:
        losses = bench.train(bench.fresh_batches(), 150)
        honest = honest_loss(bench, bench.heldout_batches(5))
    assert honest is not None
    assert losses[-1] < 1.0 < subjects.LOWEST_LOSS + 1.0 < honest


def test_bits_per_byte_of_one_byte_tokens_is_nats_over_ln_2() -> None:
    outcome = train_once(subjects.gru(), regime="fresh batches", seed=0, steps=5)
    assert outcome.honest is not None
    assert outcome.bits_per_byte == pytest.approx(outcome.honest / math.log(2))
