"""Many runs: the benchmark itself, with few."""

import json
from pathlib import Path

from experiments.benchmarks.many_runs import STAGES, benchmark
from experiments.runs import local_runs


def test_every_stage_is_measured_on_all_runs(tmp_path: Path) -> None:
    benchmark(runs=7, rows=20, out=tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["rows_each"] == 22
    assert [found[name]["told"] for name in ("list", "load", "compare")] == [7, 7 * 22, 2]
    assert all(found[name]["peak_megabytes"] > 10 and found[name]["seconds"] > 0 for name in STAGES)


def test_the_runs_are_ones_that_a_trainer_could_have_left(tmp_path: Path) -> None:
    from experiments.benchmarks.many_runs import write_runs

    write_runs(tmp_path, runs=6, rows=10)
    runs = local_runs(tmp_path).runs
    assert [(run.config["seed"], run.steps, run.state) for run in runs][:2] == [
        (0, 100, "finished"),
        (1, 100, "finished"),
    ]
    assert len({run.config["optim.lr"] for run in runs}) == 2
