"""`unplateau settings`: what is listed can be set as it is listed."""

import pytest

from experiments.config import RunConfig, override, settings, to_dict
from experiments.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_listed_line_can_be_given_to_set(name, run) -> None:
    ended = run("settings", "--recipe", name)
    typed = dict(line.split("  ")[0].split("=", 1) for line in ended.out.splitlines())
    assert list(typed) == [each.name for each in settings()]
    assert to_dict(override(RunConfig(), typed)) == to_dict(recipe(name))


def test_units_and_meanings_are_told(run) -> None:
    assert all(
        each.what in line and each.unit in line
        for each, line in zip(settings(), run("settings").out.splitlines(), strict=True)
    )


def test_a_section_can_be_chosen(run) -> None:
    lines = run("settings", "optim").out.splitlines()
    assert [line.partition("=")[0] for line in lines] == [e.name for e in settings() if e.name.startswith("optim.")]


def test_an_unknown_section_is_refused_with_the_nearest(run) -> None:
    ended = run("settings", "optm")
    assert (ended.code, ended.err) == (2, "unplateau: no section 'optm'; did you mean 'optim'?\n")
