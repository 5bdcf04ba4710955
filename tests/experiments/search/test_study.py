"""A study ends with the trials that were asked for, whatever happens to them and to its workers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from experiments.config import override
from experiments.search import study as study_module
from experiments.search.heartbeat import me
from experiments.search.plan import Limits, Plan, from_text, keep, to_text
from experiments.search.storage import open_storage, without_password
from experiments.search.study import NothingFeasibleError, Worker, counts
from experiments.search.trials import MIB, run_trial, training_bytes, trial_config
from experiments.subject import prepared
from experiments.tasks import task


def worker_of(plan: Plan, folder: Path, told: list | None = None) -> Worker:
    """The only worker of a study in a folder."""
    told = [] if told is None else told
    return Worker(plan, open_storage(None, folder), folder, on_end=lambda *what: told.append(what))


def figures(worker: Worker) -> list[tuple]:
    """Values and endings of the trials that count, in their order."""
    return [(each.params, each.value, each.state) for each in worker.study.trials if counts(each)]


def test_a_study_runs_its_trials_and_repeats_the_best_and_the_recipes_own(plan: Plan, tmp_path: Path) -> None:
    told: list = []
    worker = worker_of(plan, tmp_path / "study", told)
    worker.work()
    assert len(figures(worker)) == 5
    best = worker.study.best_trial.number
    keys = {each.user_attrs["key"]: each.value for each in worker.repeats.trials}
    assert keys.keys() == {"own/1", "own/2", f"{best}/1", f"{best}/2"}
    assert all(map(math.isfinite, keys.values()))
    assert len(told) == 9
    assert not list((tmp_path / "study").rglob("checkpoint.pt"))


def test_a_study_that_was_cut_in_two_equals_one_in_one_go(plan: Plan, tmp_path: Path) -> None:
    straight = worker_of(plan, tmp_path / "straight")
    straight.work()
    turns = iter([True, True, True, False])
    worker_of(plan, tmp_path / "cut").work(go_on=lambda: next(turns, False))
    resumed = worker_of(plan, tmp_path / "cut")
    assert len(figures(resumed)) == 3
    resumed.work()
    assert figures(resumed) == figures(straight)


def test_ctrl_c_queues_its_trial_again_and_changes_nothing_else(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    straight = worker_of(plan, tmp_path / "straight")
    straight.work()
    real, calls = study_module.run_trial, []

    def stopped(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(study_module, "run_trial", stopped)
    with pytest.raises(KeyboardInterrupt):
        worker_of(plan, tmp_path / "cut").work()
    resumed = worker_of(plan, tmp_path / "cut")
    resumed.work()
    assert figures(resumed) == figures(straight)
    assert TrialState.RUNNING not in {each.state for each in resumed.study.trials}


def test_a_torn_last_line_is_cut_off_before_anybody_writes(plan: Plan, tmp_path: Path) -> None:
    turns = iter([True, True, False])
    worker_of(plan, tmp_path).work(go_on=lambda: next(turns, False))
    with (tmp_path / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 6, "wor')
    resumed = worker_of(plan, tmp_path)
    resumed.work()
    assert len(figures(resumed)) == 5


def test_the_trial_of_a_dead_worker_is_run_again_with_its_values(plan: Plan, tmp_path: Path) -> None:
    worker = worker_of(plan, tmp_path)
    lost = worker.study.ask()
    lost.suggest_float("optim.lr", 1e-4, 1e-1, log=True)
    lost.set_user_attr("worker", {**me(), "pid": 2**22 + 1})
    worker.work()
    again = next(each for each in worker.study.trials if each.user_attrs.get("retry of") == lost.number)
    assert worker.study.trials[lost.number].state == TrialState.FAIL
    assert again.params["optim.lr"] == lost.params["optim.lr"]
    assert len(figures(worker)) == 5


def test_a_trial_that_kills_every_worker_is_given_up_and_counts(plan: Plan, tmp_path: Path) -> None:
    worker = worker_of(plan, tmp_path)
    for _ in range(study_module.TRIES):
        trial = worker.study.ask()
        trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True)
        trial.set_user_attr("worker", {**me(), "pid": 2**22 + 1})
        worker.fail_stale(worker.study)
    assert [each.state for each in worker.study.trials] == [TrialState.FAIL] * study_module.TRIES
    assert sum(map(counts, worker.study.trials)) == 1


def test_a_live_worker_keeps_its_trial(plan: Plan, tmp_path: Path) -> None:
    worker = worker_of(plan, tmp_path)
    running = worker.study.ask()
    running.set_user_attr("worker", me())
    worker.fail_stale(worker.study)
    assert worker.study.trials[0].state == TrialState.RUNNING


def test_values_that_do_not_fit_are_infeasible_and_cost_no_trial(plan: Plan, tmp_path: Path) -> None:
    worker = worker_of(replace(plan, search=("model.d_model=12,13", "optim.lr=1e-3..1e-2")), tmp_path)
    worker.work()
    refused = [each for each in worker.study.trials if each.user_attrs.get("ended") == "infeasible"]
    assert len(figures(worker)) == 5
    assert {each.user_attrs["result"]["reason"] for each in refused} <= {
        "d_model (13) must be a multiple of num_heads (3)"
    }
    assert all(each.constraints == {"feasible": 1.0} for each in refused)


def test_a_space_without_anything_feasible_ends_with_the_reason(plan: Plan, tmp_path: Path) -> None:
    hopeless = replace(plan, trials=1, search=("model.d_model=13,14",))
    with pytest.raises(NothingFeasibleError, match="must be a multiple of num_heads"):
        worker_of(hopeless, tmp_path).work()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(parameters=7), "parameters, more than 7"),
        (Limits(memory=0.01), "MiB of memory, more than 0.01"),
        (Limits(seconds=1e-6), "seconds, more than 1e-06"),
    ],
)
def test_a_limit_makes_a_trial_infeasible(plan: Plan, tmp_path: Path, limits: Limits, reason: str) -> None:
    ended = run_trial(replace(plan, limits=limits), {}, tmp_path / "trial", seed=0)
    assert (ended.state, ended.excess > 0) == ("infeasible", True)
    assert reason in ended.reason


def test_memory_grows_with_the_batch(plan: Plan) -> None:
    sizes = []
    for size in (3, 6):
        config = override(plan.config, {"data.batch_size": size})
        asking = task(config, prepared(config))
        sizes.append(training_bytes(asking, asking.build(0)) / MIB)
    assert sizes[0] < sizes[1] < 2 * sizes[0]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (MemoryError(), "infeasible", "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "infeasible", "out of memory"),
        (RuntimeError("something else\nlong"), "failed", "RuntimeError: something else"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
    ],
)
def test_what_a_trial_raises_is_its_reason(plan, tmp_path, monkeypatch, error, state, reason) -> None:
    def broken(*arguments, **settings):
        raise error

    monkeypatch.setattr("experiments.search.trials.train", broken)
    ended = run_trial(plan, {}, tmp_path / "trial", seed=0)
    assert ended.state == state
    assert ended.reason.startswith(reason)


def test_a_rate_that_diverges_is_told_so(plan: Plan, tmp_path: Path) -> None:
    config = override(plan.config, {"optim.clip_norm": None})
    ended = run_trial(replace(plan, config=config), {"optim.lr": 1e30}, tmp_path / "trial", seed=0)
    assert ended.state == "diverged"
    assert "the held-out loss is" in ended.reason


def test_every_trial_sees_the_same_number_of_tokens_whatever_its_batches(plan: Plan) -> None:
    for size in (3, 5, 7):
        config = trial_config(plan, {"data.batch_size": size}, name="trial", seed=0)
        seen = config.train.steps * config.data.batch_size * config.data.context
        assert plan.tokens <= seen < plan.tokens + size * config.data.context


def test_pruned_trials_end_on_the_way(plan: Plan, tmp_path: Path) -> None:
    ended = run_trial(plan, {}, tmp_path / "trial", seed=0, enough=lambda tokens, loss: tokens > 300)
    assert ended.state == "pruned"
    assert [tokens > 300 for tokens, _ in ended.curve][-2:] == [False, True]


def test_compared_values_are_tried_equally_often(plan: Plan, tmp_path: Path) -> None:
    compared = replace(plan, search=("optim.lr=1e-4..1e-1:log",), compare=("model.norm=before,after",), trials=6)
    worker = worker_of(compared, tmp_path)
    worker.work()
    norms = [params["model.norm"] for params, _, _ in figures(worker)]
    assert sorted(norms) == ["after"] * 3 + ["before"] * 3


@pytest.mark.parametrize("against", ["seconds", "parameters"])
def test_a_second_objective_gives_a_front(plan: Plan, tmp_path: Path, against: str) -> None:
    worker = worker_of(replace(plan, against=against), tmp_path)
    worker.work()
    assert all(len(each.values) == 2 for each in worker.study.best_trials)


def test_another_plan_in_the_same_place_is_refused_and_more_trials_are_not(plan: Plan, tmp_path: Path) -> None:
    keep(plan, tmp_path / "study.json")
    keep(replace(plan, trials=9), tmp_path / "study.json")
    with pytest.raises(ValueError, match=r"holds a study with optim.eps 1e-08, not 0.1; go on with the same command"):
        keep(replace(plan, config=override(plan.config, {"optim.eps": 0.1})), tmp_path / "study.json")
    with pytest.raises(ValueError, match="holds a study with seed 0, not 3"):
        keep(replace(plan, seed=3), tmp_path / "study.json")


def test_a_plan_survives_its_text(plan: Plan) -> None:
    assert from_text(to_text(plan)) == plan
    assert json.loads(to_text(plan))["name"] == "tiny"


def test_passwords_are_blanked() -> None:
    assert without_password("see postgresql://me:secret@db/x") == "see postgresql://me:***@db/x"
