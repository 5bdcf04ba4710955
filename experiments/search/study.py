"""A study in its storage: which trial is next, how it is kept, and what happens to the trials of dead workers.

Two Optuna studies: the search itself, and its repeats, in which the recipe's own values and the best ones are trained
again from other seeds. Every worker of every machine runs `Worker.work`, and needs nothing but the storage to know what
to do.
"""

import contextlib
import math
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from diagnostics.diagnosis import to_json
from experiments.search.heartbeat import Watch, beating, me
from experiments.search.plan import Plan, from_text, refuse_another, to_text
from experiments.search.space import Changes, asked
from experiments.search.trials import Ended, fresh_folder, run_trial

TRIES = 3  # of a trial whose worker dies: it may be what kills it
INFEASIBLE_PER_TRIAL = 20  # that cost nothing: a space with hardly anything feasible in it ends all the same
POLL_SECONDS = 0.5
REDUCTION = 3  # the best third goes on
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
Study = optuna.Study
OnEnd = Callable[[str, Changes, Ended, Path], None]


class NothingFeasibleError(ValueError):
    """Hardly any values of the space can be trained."""


def open_study(plan: Plan, storage: BaseStorage) -> tuple[optuna.Study, optuna.Study]:
    """The search and its repeats, made where they are not there yet.

    Raises:
        ValueError: the storage has a study of this name that is another one.
    """
    directions = [StudyDirection.MINIMIZE] * (1 if plan.against == "nothing" else 2)
    search = optuna.create_study(
        study_name=plan.name, storage=storage, directions=directions, pruner=pruner_of(plan), load_if_exists=True
    )
    repeats = optuna.create_study(
        study_name=f"{plan.name} repeats", storage=storage, direction="minimize", load_if_exists=True
    )
    kept = search.user_attrs.get("plan")
    if kept is not None:
        refuse_another(plan, from_text(kept), f"the storage ({plan.name})")
    if kept != to_text(plan):
        search.set_user_attr("plan", to_text(plan))
    return search, repeats


def pruner_of(plan: Plan) -> BasePruner:
    """Optuna's pruner on the tokens seen: its first rung is a ninth of a trial, its second a third."""
    first = max(1, plan.tokens // REDUCTION**2)
    if plan.pruner == "halving" and plan.against == "nothing":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if plan.pruner == "hyperband" and plan.against == "nothing":
        return HyperbandPruner(min_resource=first, max_resource=plan.tokens, reduction_factor=REDUCTION)
    return NopPruner()


def sampler_of(plan: Plan, study: optuna.Study, spice: int) -> BaseSampler:
    """A sampler whose seed depends on what is finished: a resumed study goes on where it would have gone.

    With one seed for the whole process, a resumed study would draw its first values once more.
    """
    history = [each for each in study.get_trials(deepcopy=False) if not is_lost(each)]
    seed = zlib.crc32(f"{plan.seed} {len(history)} {spice}".encode())
    sampler = TPESampler(seed=seed) if plan.sampler == "tpe" else RandomSampler(seed=seed)
    if not plan.compare:
        return sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PartialFixedSampler(least_tried(plan, study), sampler)


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: run to an end, whatever the end was."""
    ended = trial.user_attrs.get("ended")
    if trial.state == TrialState.FAIL:
        return ended == "failed" or trial.user_attrs.get("try", 1) >= TRIES
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.PRUNED and ended != "infeasible")


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial was given up unfinished: its worker died or was stopped, or it was one too many."""
    return trial.state == TrialState.FAIL and not counts(trial)


def number_of(study: optuna.Study) -> int:
    """How many trials count."""
    return sum(map(counts, study.get_trials(deepcopy=False)))


def is_one_too_many(study: optuna.Study, number: int | float, wanted: int) -> bool:
    """Whether trials with lower numbers, finished or running, are as many as are wanted already."""
    lower = [each for each in study.get_trials(deepcopy=False) if each.number < number]
    return sum(counts(each) or each.state == TrialState.RUNNING for each in lower) >= wanted


def least_tried(plan: Plan, study: optuna.Study) -> Changes:
    """The combination of compared values that has the fewest trials so far."""
    trials = [each for each in study.get_trials(deepcopy=False) if counts(each) or each.state in UNFINISHED]

    def tried(combination: Changes) -> int:
        return sum(combination.items() <= each.params.items() for each in trials)

    return min(plan.combinations, key=tried)


class Worker:
    """One process that works on a study until it is done.

    Args:
        folder: of the study on this machine; every trial leaves its record below it.
        spice: tells the samplers of several workers apart; 0 for the only one, whose study can be made again.
        on_end: is called after each trial with (its name, its settings, how it ended, its folder).
    """

    def __init__(self, plan: Plan, storage: BaseStorage, folder: Path, *, spice: int = 0, on_end: OnEnd) -> None:
        self.plan, self.folder, self.spice, self.on_end = plan, folder, spice, on_end
        self.study, self.repeats = open_study(plan, storage)
        self.watches = {study.study_name: Watch() for study in (self.study, self.repeats)}

    def work(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Trials until there are enough, then the repeats, as long as `go_on`.

        Raises:
            NothingFeasibleError: hardly any values can be trained.
            KeyboardInterrupt: Ctrl-C; the trial that was running is queued again.
        """
        while go_on() and number_of(self.study) < self.plan.trials:
            self.fail_stale(self.study)
            refuse_hopeless(self.study, self.plan.trials)
            if is_one_too_many(self.study, math.inf, self.plan.trials):
                time.sleep(POLL_SECONDS)  # others run the last ones, and one of them may die
            else:
                self.search_once()
        while go_on() and (missing := missing_repeats(self.plan, self.study, self.repeats)):
            self.fail_stale(self.repeats)
            enqueue(self.repeats, missing)
            self.repeat_once()

    def search_once(self) -> None:
        """One trial of the search."""
        self.study.sampler = sampler_of(self.plan, self.study, self.spice)
        trial = self.study.ask()
        if is_one_too_many(self.study, trial.number, self.plan.trials):
            self.study.tell(trial, state=TrialState.FAIL)
            return
        with self.signed(self.study, trial):
            changes = asked(trial, self.plan.space, self.plan.config)
            trial.set_user_attr("changes", changes)
            ended = self.run(trial, f"trial-{trial.number}", changes, self.plan.seed, self.pruning(trial))
            tell(self.study, trial, ended, self.plan)

    def repeat_once(self) -> None:
        """One run of the repeats, if one is waiting."""
        if not self.repeats.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            time.sleep(POLL_SECONDS)
            return
        trial = self.repeats.ask()
        key = trial.user_attrs.get("key")
        if key is None or key in keys_below(self.repeats, trial.number):
            self.repeats.tell(trial, state=TrialState.FAIL)  # two workers queued it at once, or another one took it
            return
        with self.signed(self.repeats, trial):
            changes, seed = trial.user_attrs["changes"], trial.user_attrs["seed"]
            ended = self.run(trial, f"repeat-{key.replace('/', '-seed-')}", changes, seed, lambda tokens, loss: False)
            tell(self.repeats, trial, ended, None)

    def pruning(self, trial: Trial) -> Callable[[int, float], bool]:
        """What asks the pruner on the way; at the end it is too late to save anything."""
        if self.plan.against != "nothing":
            return lambda tokens, loss: False  # Optuna prunes for one objective only

        def enough(tokens: int, loss: float) -> bool:
            trial.report(loss, step=tokens)
            return tokens < self.plan.tokens and trial.should_prune()

        return enough

    def run(self, trial: Trial, name: str, changes: Changes, seed: int, enough: Callable[[int, float], bool]) -> Ended:
        """Train, and keep how it ended."""
        folder = fresh_folder(self.folder / "trials" / name)
        ended = run_trial(self.plan, changes, folder, seed=seed, enough=enough)
        trial.set_user_attr("result", to_json(ended))
        trial.set_user_attr("ended", ended.state)
        self.on_end(name, changes, ended, folder)
        return ended

    @contextmanager
    def signed(self, study: optuna.Study, trial: Trial) -> Iterator[None]:
        """The trial says whose it is, and that its worker is alive; stopped by Ctrl-C, it is queued again."""
        trial.set_user_attr("worker", me())
        try:
            with beating(lambda number: trial.set_user_attr("beat", number)):
                yield
        except KeyboardInterrupt:
            give_up(study, trial.number, tried=0)
            raise

    def fail_stale(self, study: optuna.Study) -> None:
        """Fail the running trials whose worker is gone, and queue them again."""
        watch = self.watches[study.study_name]
        for each in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            about = each.user_attrs
            if watch.is_dead(each.number, about.get("worker"), about.get("beat")):
                give_up(study, each.number, tried=1)


def give_up(study: optuna.Study, number: int, *, tried: int) -> None:
    """Fail a running trial and queue its values again; `tried`: whether that counts as one of its TRIES."""
    with contextlib.suppress(RuntimeError, ValueError):  # somebody else was faster
        lost = study.tell(number, state=TrialState.FAIL)
        again = lost.user_attrs.get("try", 1) + tried
        kept: dict[str, Any] = {
            name: lost.user_attrs[name] for name in ("key", "changes", "seed") if name in lost.user_attrs
        }
        if again <= TRIES:
            study.enqueue_trial(lost.params, user_attrs={**kept, "try": again, "retry of": number})


def tell(study: optuna.Study, trial: Trial, ended: Ended, plan: Plan | None) -> None:
    """Hand the ending to Optuna.

    A trial that diverged or is infeasible is "pruned" there, so that its sampler stays away from such values.

    Args:
        plan: says what is minimised; None: bits per byte.
    """
    if ended.state == "complete":
        costs = {"nothing": [], "seconds": [ended.seconds], "parameters": [float(ended.parameters or 0)]}
        study.tell(trial, [ended.bits_per_byte, *costs[plan.against if plan else "nothing"]])
        return
    if ended.state == "infeasible":
        trial.set_constraint("feasible", ended.excess)
    may_be_pruned = len(study.directions) == 1
    study.tell(trial, state=TrialState.FAIL if ended.state == "failed" or not may_be_pruned else TrialState.PRUNED)


def refuse_hopeless(study: optuna.Study, wanted: int) -> None:
    """Raises NothingFeasibleError where far more trials were refused than run."""
    refused = [each for each in study.get_trials(deepcopy=False) if each.user_attrs.get("ended") == "infeasible"]
    if len(refused) >= INFEASIBLE_PER_TRIAL * wanted:
        reasons = Counter(each.user_attrs["result"]["reason"] for each in refused)
        raise NothingFeasibleError(
            f"{len(refused)} trials were refused before they were trained, most of them because: "
            f"{reasons.most_common(1)[0][0]}; search other values, or raise the limits"
        )


def finalists(plan: Plan, study: optuna.Study) -> list[FrozenTrial]:
    """The best trials by bits per byte; of a Pareto front, its best ones."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pool = complete if plan.against == "nothing" else study.best_trials
    return sorted(pool, key=lambda each: (each.values[0], each.number))[: plan.finalists]


def missing_repeats(plan: Plan, study: optuna.Study, repeats: optuna.Study) -> list[dict[str, Any]]:
    """What is still to be trained again: the recipe's own values and the finalists', from each of the other seeds."""
    wanted: list[tuple[str, Changes]] = [("own", {})]
    wanted += [(str(each.number), each.user_attrs["changes"]) for each in finalists(plan, study)]
    done = {
        each.user_attrs.get("key")
        for each in repeats.get_trials(deepcopy=False)
        if each.state.is_finished() and not is_lost(each)
    }
    return [
        {"key": f"{name}/{seed}", "changes": changes, "seed": seed}
        for name, changes in wanted
        for seed in plan.extra_seeds
        if f"{name}/{seed}" not in done
    ]


def enqueue(repeats: optuna.Study, missing: Sequence[dict[str, Any]]) -> None:
    """Queue what is missing and neither waiting nor running."""
    known = {each.user_attrs.get("key") for each in repeats.get_trials(deepcopy=False, states=UNFINISHED)}
    for each in missing:
        if each["key"] not in known:
            repeats.enqueue_trial({}, user_attrs=each)


def keys_below(repeats: optuna.Study, number: int) -> set[str]:
    """The keys of repeats with lower numbers that are not lost."""
    lower = [each for each in repeats.get_trials(deepcopy=False) if each.number < number and not is_lost(each)]
    return {each.user_attrs["key"] for each in lower if "key" in each.user_attrs}
