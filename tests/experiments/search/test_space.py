"""What may vary is read from text, checked against the settings, and asked trial by trial."""

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from experiments.config import RunConfig, override
from experiments.recipes import recipe
from experiments.search.space import DEFAULT_SPACE, Choice, Multiple, Range, asked, default_space, searched, space_of


def test_a_range_is_whole_where_the_setting_is() -> None:
    trial = optuna.create_study().ask()
    asked(trial, space_of(["model.num_layers=1..6", "optim.lr=1e-4..1e-2:log"]), RunConfig())
    assert trial.distributions == {
        "model.num_layers": IntDistribution(1, 6),
        "optim.lr": FloatDistribution(1e-4, 1e-2, log=True),
    }


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("model.dropout=0..0.3", Range(0.0, 0.3)),
        ("model.tie_weights=true,false", Choice((True, False))),
        ("optim.clip_norm=none,1", Choice((None, 1.0))),
        ("model.d_ff=4*model.d_model", Multiple(4.0, "model.d_model")),
    ],
)
def test_values_have_the_type_of_the_setting(text: str, values: object) -> None:
    assert searched(text).values == values


def test_a_multiple_follows_what_this_trial_tries() -> None:
    space = space_of(["model.d_model=24,48", "model.d_ff=4*model.d_model"])
    trial = optuna.trial.FixedTrial({"model.d_model": 48})
    assert asked(trial, space, RunConfig()) == {"model.d_model": 48, "model.d_ff": 192}


@pytest.mark.parametrize(("schedule", "is_asked"), [("cosine", True), ("constant", False)])
def test_a_condition_decides_whether_a_setting_is_asked(schedule: str, is_asked: bool) -> None:
    space = space_of(["optim.schedule=cosine,constant", "optim.warmup_steps=10..200 when optim.schedule=cosine"])
    trial = optuna.trial.FixedTrial({"optim.schedule": schedule, "optim.warmup_steps": 17})
    assert ("optim.warmup_steps" in asked(trial, space, RunConfig())) == is_asked


@pytest.mark.parametrize("name", ["small", "stuck"])
def test_the_default_space_is_about_settings_that_the_recipe_reads(name: str) -> None:
    config = recipe(name)
    space = space_of(default_space(config))
    assert (len(space) < len(DEFAULT_SPACE)) == (name == "stuck")
    trial = optuna.create_study().ask()
    override(config, asked(trial, space, config))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optim.lrr=1..2"], "did you mean 'lr'"),
        (["optim.lr"], "says no values"),
        (["optim.lr=1e-2..1e-4"], "low end .* must be below the high end"),
        (["optim.lr=1e-4..1e-2:lin"], "the scale .'lin'. can only be 'log'"),
        (["model.dropout=0..0.3:log"], "must begin above 0"),
        (["model.norm=before..after"], "a range is for numbers"),
        (["data.context=0,5"], "must be at least 1"),
        (["optim.betas=0.9"], "comma-separated"),
        (["optim.lr=1,2", "optim.lr=3,4"], "searched twice"),
        (["model.d_ff=4*model.d_model", "model.d_model=8,16"], "name model.d_model before it"),
    ],
)
def test_a_text_that_is_no_space_says_why(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space_of(texts)
