"""Real processes on a real study: killed without warning, replaced, and nothing is lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from experiments.config import override
from experiments.search import heartbeat
from experiments.search.heartbeat import Watch, beating, me, started
from experiments.search.plan import PLAN, Plan, keep
from experiments.search.storage import open_storage
from experiments.search.study import counts, open_study
from experiments.search.workers import run_workers

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Killer:
    """Kills the worker of a running trial once some trials are finished, and remembers what was finished then."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.search, _ = open_study(plan, open_storage(None, folder))
        self.finished_before: dict[int, object] = {}
        self.killed: int | None = None

    def look(self) -> None:
        """Kill once."""
        finished = {each.number: each.value for each in self.search.trials if each.state in FINISHED}
        running = [each for each in self.search.trials if each.state == TrialState.RUNNING]
        signed = [each.user_attrs["worker"]["pid"] for each in running if "worker" in each.user_attrs]
        if self.killed is None and finished and signed:
            self.finished_before, self.killed = finished, signed[0]
            os.kill(signed[0], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_costs_no_finished_trial_and_the_study_ends_whole(plan: Plan, tmp_path: Path) -> None:
    config = override(plan.config, {"track.mode": "disabled"})
    plan = replace(plan, config=config, trials=4, tokens=16500, pruner="none", search=("optim.lr=1e-4..1e-2:log",))
    keep(plan, tmp_path / PLAN)
    killer = Killer(plan, tmp_path)
    run_workers(tmp_path, workers=1, storage=None, alone=True, watch=killer.look)
    trials = {each.number: each for each in killer.search.trials}
    assert killer.killed is not None
    assert {number: trials[number].value for number in killer.finished_before} == killer.finished_before
    assert sum(map(counts, trials.values())) == 4
    assert {each.state for each in trials.values()} <= {*FINISHED, TrialState.FAIL}
    assert [each for each in trials.values() if "retry of" in each.user_attrs]


def test_what_a_worker_cannot_mend_is_one_line(plan: Plan, tmp_path: Path) -> None:
    config = override(plan.config, {"track.mode": "disabled"})
    keep(replace(plan, config=config, trials=1, search=("model.d_model=13,14",)), tmp_path / PLAN)
    with pytest.raises(ValueError, match="must be a multiple of num_heads"):
        run_workers(tmp_path, workers=1, storage=None, alone=True)


def test_a_process_is_known_by_when_it_began() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        signed = {**me(), "pid": process.pid, "started": started(process.pid)}
        watch = Watch()
        assert not watch.is_dead(0, signed, None)
        assert watch.is_dead(0, {**signed, "started": "another time"}, None)
        process.kill()
        process.wait()
        assert watch.is_dead(0, signed, None)


def test_a_worker_elsewhere_is_dead_once_its_beat_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    signed = {"machine": "another one", "pid": 7, "started": "11"}
    watch = Watch(stale_seconds=60.0)
    answers = []
    for second, beat in [(0, 1), (59, 1), (61, 2), (119, 2), (122, 2)]:
        now[0] = float(second)
        answers.append(watch.is_dead(3, signed, beat))
    assert answers == [False, False, False, False, True]


def test_beats_come_while_the_block_lasts() -> None:
    beats: list[int] = []
    beat: Callable[[int], None] = beats.append
    with beating(beat, every=0.01):
        time.sleep(0.1)
    ended = len(beats)
    time.sleep(0.05)
    assert beats == list(range(1, ended + 1))
    assert ended > 0
