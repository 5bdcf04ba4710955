"""The verdict says what the numbers say: seeds are beaten or not, and what stands in the way is named."""

import math
import random

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from experiments.search.check import Broken
from experiments.search.findings import Found, Importance, Repeated, importances, verdict

SOFTMAX = Broken(fault="softmax-before-cross-entropy", title="t", because="b", floor=7.089)


def found(best: tuple[float, ...], *, broken: tuple[Broken, ...] = (), top: float = 0.71) -> Found:
    """A study whose own values reach 2.0 on average."""
    own = Repeated(name="own", changes={}, bits_per_byte=(2.0, 2.1, 1.9), losses=(8.0, 8.1, 7.9))
    rest = Repeated(name="3", changes={"optim.lr": 0.01}, bits_per_byte=best, losses=best)
    return Found(
        name="tiny",
        settings=("optim.lr",),
        seeds=(1, 2, 3),
        tokens=1100,
        trials=(),
        own=own,
        best=(rest,) if best else (),
        importances=(Importance(setting="optim.lr", fanova=top, chance=0.2, ped_anova=0.9),),
        measured="bits per byte",
        broken=broken,
    )


def test_a_gain_beyond_the_seeds_names_the_setting_that_explains_it() -> None:
    said = verdict(found((1.0, 1.1, 0.9)))
    assert "moved the loss from 2.000 to 1.000 bits per byte" in said
    assert "optim.lr explains 71 % of the spread (20 % by chance)" in said


def test_a_gain_within_the_seeds_is_none() -> None:
    assert "these settings do not hold the loss up" in verdict(found((1.99, 2.05, 1.93)))


def test_shares_that_shuffled_values_give_too_name_nothing() -> None:
    assert "shuffled values give shares as large" in verdict(found((1.0, 1.1, 0.9), top=0.1))


def test_a_fault_is_named_with_the_floor_that_it_puts_under_the_loss() -> None:
    said = verdict(found((1.99, 2.05, 1.93), broken=(SOFTMAX,)))
    assert "no value of these 1 settings can help: the code has a softmax-before-cross-entropy" in said
    assert "above 7.089 nats per token" in said


def test_without_a_completed_trial_there_is_no_verdict_on_values() -> None:
    assert verdict(found(())).startswith("no trial of 0 was completed")


def test_the_setting_that_makes_the_loss_explains_it_and_the_idle_one_is_noise() -> None:
    pytest.importorskip("sklearn", reason="fANOVA needs scikit-learn")
    chance = random.Random(0)
    study = optuna.create_study()
    spaces = {name: FloatDistribution(0.0, 1.0) for name in ("acts", "idle")}
    for _ in range(30):
        params = {name: chance.random() for name in spaces}
        study.add_trial(create_trial(params=params, distributions=spaces, value=params["acts"] ** 2))
    values = {each.number: each.value or 0.0 for each in study.trials}
    first, second = importances(study.trials, values, ["acts", "idle"])
    assert (first.setting, second.setting) == ("acts", "idle")
    assert first.fanova > 0.7
    assert not first.is_noise
    assert second.is_noise or second.fanova < 0.2
    assert math.isclose(first.ped_anova + second.ped_anova, 1.0)
