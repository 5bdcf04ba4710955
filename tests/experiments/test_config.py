import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.config import (
    CorpusConfig,
    DefectsConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    differences,
    from_dict,
    override,
    settings,
    to_dict,
)
from experiments.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name: str) -> None:
    config = recipe(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


def test_override_changes_only_what_it_names_and_leaves_its_argument() -> None:
    before = RunConfig()
    after = override(before, {"optim.lr": 0.5, "name": "other"})
    assert before == RunConfig()
    assert after == RunConfig(name="other", optim=OptimConfig(lr=0.5))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optim.lr", "1e-2", 0.01),
        ("optim.lr", 1, 1.0),
        ("optim.clip_norm", "none", None),
        ("optim.clip_norm", "0.5", 0.5),
        ("optim.betas", "0.5, 0.25", (0.5, 0.25)),
        ("model.num_layers", "3", 3),
        ("model.tie_weights", "off", False),
        ("model.tie_weights", "Yes", True),
        ("model.norm", "after", "after"),
        ("tokenizer.split", "none", "none"),
        ("track.group", "none", None),
        ("track.tags", "red,blue", ("red", "blue")),
        ("corpus.source", "a.txt", "a.txt"),
        ("corpus.source", "a.txt,b.txt", ("a.txt", "b.txt")),
        ("corpus.source", Path("a.txt"), "a.txt"),
        ("corpus.source", ["a.txt", "b.txt"], ("a.txt", "b.txt")),
    ],
)
def test_values_are_read_as_the_type_of_their_field(name: str, text: Any, value: Any) -> None:
    section, _, field = name.partition(".")
    found = getattr(getattr(override(RunConfig(), {name: text}), section), field)
    assert (found, type(found)) == (value, type(value))


@given(st.floats(min_value=1e-12, max_value=1e6))
def test_any_rate_typed_as_text_is_the_same_rate(rate: float) -> None:
    assert override(RunConfig(), {"optim.lr": repr(rate)}).optim.lr == rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lrr": 1}, "OptimConfig has no field 'lrr'; did you mean 'lr'?"),
        ({"optm.lr": 1}, "RunConfig has no field 'optm'; did you mean 'optim'?"),
        ({"zzz": 1}, "RunConfig has no field 'zzz'; known: name, seed, corpus"),
        ({"name.first": "x"}, "name.first does not exist: 'name' is a single setting, not a section"),
        ({"optim": "fast"}, "optim is a section with settings of its own; set one of those, such as 'optim.lr'"),
        ({"optim.lr": "fast"}, "optim.lr must be a number, not 'fast'"),
        ({"optim.lr": True}, "optim.lr must be a number, not True"),
        ({"optim.lr": "inf"}, "lr (inf) must be a finite number"),
        ({"optim.lr": "nan"}, "lr (nan) must be a finite number"),
        ({"optim.lr": 0}, "lr (0.0) must be above 0"),
        ({"train.steps": "1e3"}, "train.steps must be a whole number or none, not '1e3'"),
        ({"model.num_layers": 2.5}, "model.num_layers must be a whole number, not 2.5"),
        ({"model.tie_weights": "maybe"}, "model.tie_weights must be true or false, not 'maybe'"),
        ({"model.norm": "middle"}, "model.norm must be one of 'before', 'after', not 'middle'"),
        ({"optim.betas": "0.9"}, "optim.betas must be 2 comma-separated float values, not '0.9'"),
        ({"optim.betas": (0.9, 1.0)}, "betas (0.9, 1.0) must both be at least 0 and below 1"),
        ({"data.train_share": 1}, "train_share (1.0) must be above 0 and below 1"),
        ({"model.dropout": -0.1}, "dropout (-0.1) must be at least 0 and below 1"),
        ({"model.num_heads": 7}, "d_model (128) must be a multiple of num_heads (7)"),
        ({"optim.schedule": "noam", "optim.warmup_steps": 0}, "warmup_steps (0) must be at least 1 for the 'noam'"),
        ({"train.steps": None}, "steps (None) and epochs (None): one must be a number, the other None"),
        ({"train.epochs": 2}, "steps (1000) and epochs (2): one must be a number, the other None"),
        ({"optim.accumulate": 5}, "batch_size (32) must be a multiple of accumulate (5)"),
        (
            {"defects.untied_head": True},
            "defects.untied_head works on model.kind 'stuck' only, not on 'language_model'",
        ),
        ({"model.kind": "seq2seq"}, "source ('lanterns') is not read by model.kind 'seq2seq'"),
        ({"corpus.pairs": "a.tsv"}, "pairs are not read by model.kind 'language_model'"),
        ({"corpus.source": None}, "model.kind 'language_model' needs corpus.source"),
        ({"corpus.source": ""}, "source is empty; name 'lanterns', 'pydoc' or a path"),
        ({"model.kind": "stuck"}, "tie_weights (True) has no effect on model.kind 'stuck', which knows only False"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_its_value_and_the_rule(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        override(RunConfig(), changes)


def test_wrong_types_are_refused_without_override_too() -> None:
    code = "from experiments.config import ModelSection\nModelSection(num_layers='3')"  # no type checker in there
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ValueError: num_layers must be a whole number, not '3'"
    with pytest.raises(ValueError, match=re.escape("pairs (3 files) must be one .tsv file or two aligned text files")):
        CorpusConfig(pairs=("a", "b", "c"))
    with pytest.raises(ValueError, match=re.escape("optim must be a table of settings, not 3")):
        from_dict({"optim": 3})


def test_changes_are_checked_together_and_not_one_after_the_other() -> None:
    config = override(
        RunConfig(), {"train.steps": None, "train.epochs": "3", "model.d_model": 14, "model.num_heads": 7}
    )
    assert (config.train.epochs, config.model.d_model) == (3, 14)


def test_present_defects_are_listed_in_the_order_of_the_fields() -> None:
    assert DefectsConfig().present() == ()
    defects = DefectsConfig(untied_head=True, targets_not_shifted=True)
    assert defects.present() == ("targets_not_shifted", "untied_head")
    assert len(DefectsConfig.all().present()) == 13


def test_differences_name_every_setting_that_differs_and_no_other() -> None:
    changes = {"optim.lr": 0.5, "train.patience": 3}
    assert differences(RunConfig(), override(RunConfig(), changes)) == {
        "optim.lr": (1e-3, 0.5),
        "train.patience": (None, 3),
    }
    assert differences(RunConfig(), RunConfig()) == {}


def test_every_setting_is_explained() -> None:
    found = {each.name: each for each in settings()}
    assert all(each.what for each in found.values())
    assert found["data.context"].unit == "tokens"
    assert found["optim.lr"].default == 1e-3
    assert len(found) == sum(
        len(section) if isinstance(section, dict) else 1 for section in to_dict(RunConfig()).values()
    )


def test_bounds_let_their_own_value_through_or_not_as_they_say() -> None:
    assert TrainConfig(sample_tokens=0).sample_tokens == 0
    assert OptimConfig(label_smoothing=0.0).label_smoothing == 0
    assert OptimConfig(lr=math.ulp(0.0)).lr > 0
