"""What a study found: the best values with their spread, what mattered, and whether values are the answer at all."""

import math
import statistics
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from diagnostics.trial import Trial
from experiments.search.check import Broken
from experiments.search.plan import Plan
from experiments.search.space import Changes
from experiments.search.study import counts, finalists
from experiments.search.trials import State

SHUFFLES = 6  # of the values over the trials: what an importance comes to by chance
TREES = 32  # half of Optuna's own default, for each of the shuffles too
LEAST = 4  # trials below which no importance is computed at all


@dataclass(frozen=True, kw_only=True)
class Told:
    """One trial as the report shows it; figures are None where it did not get that far."""

    number: int
    state: State
    reason: str
    changes: Changes
    bits_per_byte: float | None
    seconds: float
    parameters: int | None
    curve: tuple[tuple[int, float], ...]

    @property
    def first(self) -> float | None:
        """Bits per byte at its first evaluation, which every trial reaches after the same number of tokens."""
        return self.curve[0][1] if self.curve else None


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Values that were trained from several other seeds; a run that did not end in a number counts as infinite.

    Args:
        name: "own" for the recipe's own values, otherwise the number of the trial that tried them first.
        losses: in nats per token, which compare with other vocabularies as little as ever.
    """

    name: str
    changes: Changes
    bits_per_byte: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean bits per byte; infinite where a seed did not end in a number, or none was run."""
        return statistics.fmean(self.bits_per_byte) if self.bits_per_byte else math.inf

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; NaN for a single one."""
        whole = len(self.bits_per_byte) > 1 and math.isfinite(self.mean)
        return statistics.stdev(self.bits_per_byte) if whole else math.nan


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much of the spread of the trials one setting explains.

    Args:
        fanova: share of the variance, on its own; None for a setting that only some trials have.
        chance: the largest share that it gets when the values are shuffled over the trials: what is below is noise.
        ped_anova: share among all settings of what sets the best tenth apart; another question, asked of every setting.
    """

    setting: str
    fanova: float | None
    chance: float | None
    ped_anova: float | None

    @property
    def is_noise(self) -> bool:
        """Whether shuffled values give as much."""
        return self.fanova is None or self.chance is None or self.fanova <= self.chance


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One combination of the values that are compared, with the others tuned for it."""

    values: Changes
    trials: int
    best: Told | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that a study found.

    Args:
        settings: the names of what was searched.
        trials: in their order, the infeasible ones included.
        own: the recipe's own values from other seeds.
        best: the finalists from the same seeds, best mean first.
        importances: largest first; empty where there are too few trials.
        measured: what the importances are about, in words.
        compared: the combinations of compared values; empty where nothing is.
        front: numbers of the trials on the Pareto front; empty for a single objective.
        broken: what stood in the way from the start.
    """

    name: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    tokens: int
    trials: tuple[Told, ...]
    own: Repeated
    best: tuple[Repeated, ...]
    importances: tuple[Importance, ...]
    measured: str
    compared: tuple[Compared, ...] = ()
    front: tuple[int, ...] = ()
    broken: tuple[Broken, ...] = ()

    @property
    def run(self) -> tuple[Told, ...]:
        """The trials that count."""
        return tuple(each for each in self.trials if each.state != "infeasible")

    @property
    def endings(self) -> dict[State, int]:
        """How many trials ended how."""
        return dict(Counter(each.state for each in self.trials))

    @property
    def gain(self) -> Trial | None:
        """The recipe's own values against the best ones over paired seeds; None where one of them is missing."""
        if not self.best or len(self.best[0].bits_per_byte) != len(self.own.bits_per_byte):
            return None
        return Trial(
            question="the recipe's own values (before) against the best found (after)",
            quantity="held-out bits per byte",
            seeds=self.seeds,
            before=self.own.bits_per_byte,
            after=self.best[0].bits_per_byte,
            reference=math.nan,
            regime="fresh batches",
        )


def found_by(plan: Plan, study: optuna.Study, repeats: optuna.Study, broken: Sequence[Broken] = ()) -> Found:
    """What the study and its repeats come to; fewer trials than planned are no hindrance."""
    kept = [each for each in study.trials if "result" in each.user_attrs and each.state.is_finished()]
    trials = tuple(told(each) for each in kept)
    run = [each for each in kept if counts(each)]
    best = [repeated(repeats, str(each.number), each.user_attrs["changes"], plan) for each in finalists(plan, study)]
    measured, values = comparable(run)
    names = tuple(each.name for each in plan.space if any(each.name in trial.params for trial in run))
    return Found(
        name=plan.name,
        settings=names,
        seeds=plan.extra_seeds,
        tokens=plan.tokens,
        trials=trials,
        own=repeated(repeats, "own", {}, plan),
        best=tuple(sorted(best, key=lambda each: each.mean)),
        importances=importances(run, values, names),
        measured=measured,
        compared=tuple(compared(plan, trials)),
        front=tuple(each.number for each in study.best_trials) if plan.against != "nothing" else (),
        broken=tuple(broken),
    )


def told(trial: FrozenTrial) -> Told:
    """A trial of the storage as plain data."""
    result: Mapping[str, Any] = trial.user_attrs["result"]
    return Told(
        number=trial.number,
        state=result["state"],
        reason=result["reason"],
        changes=trial.user_attrs["changes"],
        bits_per_byte=result["bits_per_byte"],
        seconds=result["seconds"],
        parameters=result["parameters"],
        curve=tuple((tokens, loss) for tokens, loss in result["curve"]),
    )


def repeated(repeats: optuna.Study, name: str, changes: Changes, plan: Plan) -> Repeated:
    """The runs of one set of values from the other seeds, in the order of the seeds."""
    by_key = {each.user_attrs.get("key"): each for each in repeats.trials if "result" in each.user_attrs}
    results = [by_key[f"{name}/{seed}"] for seed in plan.extra_seeds if f"{name}/{seed}" in by_key]

    def figures(what: str) -> tuple[float, ...]:
        values = (each.user_attrs["result"][what] for each in results)
        return tuple(math.inf if value is None else value for value in values)

    return Repeated(name=name, changes=changes, bits_per_byte=figures("bits_per_byte"), losses=figures("loss"))


def comparable(run: Sequence[FrozenTrial]) -> tuple[str, dict[int, float]]:
    """A figure for every trial after the same number of tokens, and what it is; one that diverged has the worst.

    The end where all got there; otherwise the first evaluation, which pruned trials have too: what was pruned says as
    much about a setting as what was not.
    """
    trials = [told(each) for each in run]
    at_the_end = {each.number: each.bits_per_byte for each in trials if each.bits_per_byte is not None}
    done = sum(each.state in ("complete", "diverged") for each in trials)
    early = {each.number: each.first for each in trials if each.first is not None}
    known = at_the_end if done == len(trials) else early
    worst = max(known.values(), default=math.nan)
    values = known | {each.number: worst for each in trials if each.state == "diverged" and each.number not in known}
    when = "at the end of training" if known is at_the_end else "at the first evaluation, which pruned trials have too"
    return f"bits per byte of {len(values)} trials {when}", values if known else {}


def importances(
    run: Sequence[FrozenTrial], values: Mapping[int, float], names: Sequence[str]
) -> tuple[Importance, ...]:
    """What each setting explains, largest first; empty for fewer than LEAST trials, or trials that are all alike."""
    trials = [each for each in run if each.number in values]
    losses = [values[each.number] for each in trials]
    if len(trials) < LEAST or len(set(losses)) < 2:
        return ()
    distributions = {name: each.distributions[name] for each in trials for name in each.distributions}
    shares = fanova(trials, losses, distributions)
    mixed = np.random.default_rng(0)
    shuffled = [fanova(trials, list(mixed.permutation(losses)), distributions) for _ in range(SHUFFLES)]
    ped_anova = get_param_importances(copied(trials, losses), evaluator=PedAnovaImportanceEvaluator())
    others = {name: float(share) for name, share in ped_anova.items()}
    found = [
        Importance(
            setting=name,
            fanova=shares.get(name),
            chance=max(each[name] for each in shuffled) if name in shares else None,
            ped_anova=others.get(name),
        )
        for name in names
    ]
    return tuple(sorted(found, key=lambda each: (-(each.fanova or 0.0), -(each.ped_anova or 0.0))))


def fanova(
    trials: Sequence[FrozenTrial], losses: Sequence[float], distributions: Mapping[str, BaseDistribution]
) -> dict[str, float]:
    """Share of the variance that each setting explains on its own; settings that only some trials have are left out.

    Source: Hutter, Hoos and Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance".
    """
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's advice to Optuna
        shares = get_param_importances(copied(trials, losses), evaluator=evaluator, normalize=False)
    return {name: float(share) for name, share in shares.items()}


def copied(trials: Sequence[FrozenTrial], losses: Sequence[float]) -> optuna.Study:
    """A study in memory of the same values with these losses."""
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(params=each.params, distributions=each.distributions, value=float(loss))
            for each, loss in zip(trials, losses, strict=True)
        ]
    )
    return study


def compared(plan: Plan, trials: Sequence[Told]) -> list[Compared]:
    """The best trial of each combination of compared values."""
    if not plan.compare:
        return []
    found = []
    for values in plan.combinations:
        among = [each for each in trials if values.items() <= each.changes.items() and each.state != "infeasible"]
        complete = [each for each in among if each.bits_per_byte is not None]
        best = min(complete, key=lambda each: each.bits_per_byte or math.inf, default=None)
        found.append(Compared(values=values, trials=len(among), best=best))
    return found


def verdict(found: Found) -> str:
    """Whether values of these settings are the answer, in one or two sentences with the deciding numbers."""
    gain = found.gain
    if gain is None:
        return f"no trial of {len(found.run)} was completed: {reasons(found)}"
    best = found.best[0]
    moved = (
        f"{len(found.run)} trials moved the loss from {found.own.mean:.3f} to {best.mean:.3f} bits per byte "
        f"(means over seeds {', '.join(map(str, found.seeds))})"
    )
    if found.broken:
        return f"{moved}; no value of these {len(found.settings)} settings can help: {standing(found)}"
    if not gain.counts:
        return f"{moved}, which another seed does as well ({spread_of(gain)}): these settings do not hold the loss up"
    return f"{moved}, more than seeds explain ({spread_of(gain)}). {explained(found)}"


def standing(found: Found) -> str:
    """What stands in the way, and the floor that it puts under the loss."""
    first = found.broken[0]
    if first.floor is None:
        return f"the code has a {first.fault}"
    best = statistics.fmean(found.best[0].losses)
    return (
        f"the code has a {first.fault}, which keeps the training loss above {first.floor:.3f} nats per token "
        f"(it stands at {statistics.fmean(found.own.losses):.3f} on held-out text, {best:.3f} with the best values)"
    )


def spread_of(gain: Trial) -> str:
    """Paired error and what a seed does."""
    return f"paired error {gain.effect_error:.3f}, a seed alone {gain.seed_spread:.3f}"


def explained(found: Found) -> str:
    """Which setting matters most, or why that cannot be told."""
    if not found.importances:
        return "Too few trials to say which setting did it."
    top = found.importances[0]
    if top.is_noise:
        return "Too few trials to say which setting did it: shuffled values give shares as large."
    assert top.fanova is not None  # what is no noise has one
    return f"{top.setting} explains {100 * top.fanova:.0f} % of the spread ({100 * (top.chance or 0):.0f} % by chance)."


def reasons(found: Found) -> str:
    """The commonest reasons why trials did not complete."""
    common = Counter(f"{each.state} ({each.reason})" for each in found.trials if each.state != "complete")
    return "; ".join(f"{number} {reason}" for reason, number in common.most_common(3)) or "none was run"
