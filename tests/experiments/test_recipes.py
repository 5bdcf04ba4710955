import re

import pytest

from experiments.config import DefectsConfig
from experiments.recipes import RECIPES, recipe, stuck, stuck_full


def test_an_unknown_recipe_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=re.escape("no recipe 'stck'; did you mean 'stuck'?")):
        recipe("stck")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_calls_itself_by_its_name(name: str) -> None:
    assert recipe(name).name == name


@pytest.mark.parametrize("name", ["small", "base"])
def test_healthy_recipes_have_no_defects(name: str) -> None:
    assert recipe(name).defects == DefectsConfig()


def test_stuck_has_all_defects_and_the_settings_that_go_with_them() -> None:
    config = stuck()
    assert config.defects == DefectsConfig.all()
    assert (config.optim.lr, config.optim.warmup_steps, config.optim.clip_norm) == (1e-2, 0, None)
    assert (config.tokenizer.split, config.tokenizer.alphabet, config.data.context) == ("none", "bytes", 10)


def test_stuck_full_has_the_size_of_the_original() -> None:
    model, data = stuck_full().model, stuck_full().data
    assert (model.d_model, model.num_heads, model.num_layers, model.d_ff) == (128, 8, 6, 512)
    assert (data.context, data.batch_size, data.train_share) == (10, 100, 0.7)
