"""What a study is: the run that it varies, what may vary, how much is tried, and how. Plain data, kept beside it."""

import json
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.config import RunConfig, differences, from_dict, override, to_dict
from experiments.record import write_text
from experiments.search.space import Choice, Space, space_of

Against = Literal["nothing", "seconds", "parameters"]
Pruner = Literal["halving", "hyperband", "none"]
Sampler = Literal["tpe", "random"]
PLAN = "study.json"  # in the study's folder
MAY_CHANGE = ("trials", "finalists", "seeds")  # when a study goes on: more of the same


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a trial may cost; None: as much as it likes.

    Args:
        parameters: trainable numbers of the model.
        memory: of training, in MiB: weights, gradients, both moments of Adam, and what one forward pass keeps.
        seconds: of training.
    """

    parameters: int | None = None
    memory: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study.

    Args:
        name: of the study in its storage; the same on every machine.
        config: the run whose settings are varied; what is not searched stays as it is here (*fixed*).
        search: *nuisance* settings, tuned away: texts that `space_of` reads.
        compare: *scientific* settings: choices that are all tried equally often, each with the others tuned for it.
        trials: how many trials are run to an end, pruned ones included.
        tokens: that each trial trains on, whatever its batches are.
        against: what is minimised beside bits per byte: then the answer is a Pareto front, and nothing is pruned.
        pruner: how trials are ended early on their curve over the tokens seen.
        sampler: how values are chosen.
        seed: of the sampler, and of every trial's training.
        finalists: how many of the best are trained again.
        seeds: of each finalist and of the recipe's own values; none of them is `seed`, for which the best were chosen.
    """

    name: str
    config: RunConfig
    search: tuple[str, ...]
    compare: tuple[str, ...] = ()
    trials: int = 40
    tokens: int
    against: str = "nothing"
    pruner: str = "halving"
    sampler: str = "tpe"
    seed: int = 0
    finalists: int = 3
    seeds: int = 3
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name, kind in (("against", Against), ("pruner", Pruner), ("sampler", Sampler)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} ({getattr(self, name)!r}) must be one of {', '.join(get_args(kind))}")
        if not self.space:
            raise ValueError("nothing is searched; name at least one setting, such as --search optim.lr=1e-4..1e-2:log")
        wrong = next((each.name for each in space_of(self.compare) if not isinstance(each.values, Choice)), None)
        if wrong:
            raise ValueError(f"{wrong} is compared, which takes values to compare, such as --compare {wrong}=A,B")

    @property
    def space(self) -> Space:
        """Everything that varies, what is compared first."""
        return space_of((*self.compare, *self.search))

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of the values that are compared; a single empty one where nothing is."""
        compared = space_of(self.compare)
        values = [each.values.values for each in compared if isinstance(each.values, Choice)]
        names = [each.name for each in compared]
        return [dict(zip(names, chosen, strict=True)) for chosen in product(*values)]

    @property
    def extra_seeds(self) -> tuple[int, ...]:
        """The seeds of the finalists."""
        return tuple(range(self.seed + 1, self.seed + 1 + self.seeds))


def to_text(plan: Plan) -> str:
    """The plan as text."""
    return json.dumps({**asdict(plan), "config": to_dict(plan.config)}, indent=1)


def from_text(text: str) -> Plan:
    """The plan back from its text."""
    tree = json.loads(text)
    texts = {name: tuple(tree[name]) for name in ("search", "compare")}
    return Plan(**{**tree, **texts, "config": from_dict(tree["config"]), "limits": Limits(**tree["limits"])})


def keep(plan: Plan, path: Path) -> None:
    """Write the plan down for the workers; raises ValueError where another study's plan is there."""
    if path.exists():
        refuse_another(plan, from_text(path.read_text()), str(path.parent))
    write_text(path, to_text(plan) + "\n")


def refuse_another(plan: Plan, kept: Plan, where: str) -> None:
    """Raises ValueError where a study that exists is not the one that was asked for; more trials are welcome."""
    for each in fields(Plan):
        mine, its = getattr(plan, each.name), getattr(kept, each.name)
        if each.name not in (*MAY_CHANGE, "config") and mine != its:
            raise ValueError(f"{where} holds a study with {each.name} {its!r}, not {mine!r}; {WAYS_OUT}")
    changed = differences(untracked(kept.config), untracked(plan.config))
    for name, (its, mine) in changed.items():
        raise ValueError(f"{where} holds a study with {name} {its!r}, not {mine!r}; {WAYS_OUT}")


WAYS_OUT = "go on with the same command, or choose another --name or --out"


def untracked(config: RunConfig) -> RunConfig:
    """The configuration without where its numbers go: that may differ from machine to machine."""
    return override(config, {f"track.{each.name}": each.default for each in fields(type(config.track))})
