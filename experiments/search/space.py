"""What a search may vary: ranges and choices for settings, under their own names.

optim.lr=1e-4..1e-2:log                          a range, even on a logarithmic scale
model.num_layers=1..6                            whole numbers where the setting is one
model.d_model=64,128,256                         choices
model.d_ff=4*model.d_model                       follows another setting
optim.warmup_steps=10..200 when optim.schedule=cosine,constant     asked only then; otherwise the recipe's value
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.config import STUCK_DESIGN, RunConfig, value_at
from experiments.settings import value_of

if TYPE_CHECKING:
    from optuna import Trial

Changes = dict[str, Any]

DEFAULT_SPACE = (
    "tokenizer.vocab_size=500,1000,2000,4000",
    "data.context=32,64,128",
    "data.batch_size=8,16,32,64",
    "optim.lr=1e-4..3e-2:log",
    "model.d_model=32,64,128,256",
    "model.num_layers=1..4",
    "model.num_heads=1,2,4,8",
    "model.d_ff=4*model.d_model",
    "model.dropout=0..0.3",
    "optim.warmup_steps=0,20,50,100",
    "optim.weight_decay=1e-3..0.3:log",
    "model.norm=before,after",
    "model.tie_weights=true,false",
    "optim.label_smoothing=0..0.1",
)
"""Searched unless the command line names settings: those that people ask about first, and what goes with them."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; `log`: as many below the geometric mean as above it."""

    low: int | float
    high: int | float
    log: bool = False

    def ask(self, trial: "Trial", name: str) -> int | float:
        """The value that this trial tries."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def ask(self, trial: "Trial", name: str) -> Any:
        """The value that this trial tries."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Multiple:
    """`factor` times the value of another setting: nothing to search."""

    factor: float
    of: str


@dataclass(frozen=True)
class Condition:
    """Another setting has one of these values."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Searched:
    """One setting and what it may be; asked only where the condition holds."""

    name: str
    values: Range | Choice | Multiple
    when: Condition | None = None


Space = tuple[Searched, ...]


def space_of(texts: Sequence[str]) -> Space:
    """The space that these texts describe, in their order.

    Raises:
        ValueError: a setting that does not exist or comes twice, a value that does not fit it, a range upside down, a
            condition on a setting that is searched further down.
    """
    space = tuple(searched(text) for text in texts)
    names = [each.name for each in space]
    for place, each in enumerate(space):
        if each.name in names[:place]:
            raise ValueError(f"{each.name} is searched twice; name it once")
        needed = each.when.name if each.when else each.values.of if isinstance(each.values, Multiple) else None
        if needed in names[place:]:
            raise ValueError(f"{each.name} depends on {needed}, which stands further down; name {needed} before it")
    return space


def default_space(config: RunConfig) -> tuple[str, ...]:
    """The usual settings, without those that this kind of model has no use for."""
    ignored = set(STUCK_DESIGN) if config.model.kind == "stuck" else set()
    return tuple(text for text in DEFAULT_SPACE if text.partition("=")[0].removeprefix("model.") not in ignored)


def searched(text: str) -> Searched:
    """One setting from its text; see the top of this file.

    >>> searched("model.num_layers=1..6").values
    Range(low=1, high=6, log=False)
    """
    body, _, condition = text.partition(" when ")
    name, values = assignment(body)
    return Searched(name, values_of(name, values), condition_of(condition) if condition else None)


def assignment(text: str) -> tuple[str, str]:
    """Both sides of a text."""
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not values:
        raise ValueError(f"{text.strip()!r} says no values; write NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B,C")
    return name, values


def values_of(name: str, text: str) -> Range | Choice | Multiple:
    """What a setting may be."""
    multiple = re.fullmatch(r"([\d.]+)\*([a-z_.]+)", text)
    if multiple:
        value_of(RunConfig, name, "1")  # the setting exists and takes numbers
        value_of(RunConfig, multiple[2], "1")
        return Multiple(float(multiple[1]), multiple[2])
    if ".." in text:
        return range_of(name, text)
    return Choice(choices(name, text))


def range_of(name: str, text: str) -> Range:
    """LOW..HIGH or LOW..HIGH:log."""
    ends, _, scale = text.partition(":")
    low, high = (value_of(RunConfig, name, end.strip()) for end in ends.split("..", 1))
    if scale not in ("", "log"):
        raise ValueError(f"{name}={text}: the scale ({scale!r}) can only be 'log', or nothing")
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in (low, high)):
        raise ValueError(f"{name}={text}: a range is for numbers; name the values, such as {name}=A,B")
    if not low < high:
        raise ValueError(f"{name}={text}: the low end ({low}) must be below the high end ({high})")
    if scale and low <= 0:
        raise ValueError(f"{name}={text}: a logarithmic range must begin above 0, not at {low}")
    return Range(low, high, log=bool(scale))


def choices(name: str, text: str) -> tuple[Any, ...]:
    """The values between commas."""
    values = tuple(value_of(RunConfig, name, each.strip()) for each in text.split(","))
    if any(isinstance(value, tuple) for value in values):
        raise ValueError(f"{name} takes several values at once, which a search cannot choose between; use --set")
    return values


def condition_of(text: str) -> Condition:
    """NAME=A,B."""
    name, values = assignment(text)
    return Condition(name, choices(name, values))


def asked(trial: "Trial", space: Space, config: RunConfig) -> Changes:
    """The settings that this trial tries: what to `override`."""
    changes: Changes = {}
    for each in space:
        if each.when and value_in(changes, config, each.when.name) not in each.when.values:
            continue
        if isinstance(each.values, Multiple):
            changes[each.name] = multiple(each.values, changes, config)
        else:
            changes[each.name] = each.values.ask(trial, each.name)
    return changes


def multiple(values: Multiple, changes: Changes, config: RunConfig) -> int | float:
    """The value that follows another one; a whole number where it comes out as one."""
    value = values.factor * value_in(changes, config, values.of)
    return int(value) if value == int(value) else value


def value_in(changes: Mapping[str, Any], config: RunConfig, name: str) -> Any:
    """The value of a setting under some changes."""
    return changes[name] if name in changes else value_at(config, name)
