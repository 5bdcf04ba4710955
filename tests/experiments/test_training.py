import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import training
from experiments.checkpoint import read_checkpoint
from experiments.config import RunConfig, override, to_dict
from experiments.record import RunRecord
from experiments.tasks import NextToken, task
from experiments.training import ctrl_c_between_steps, device_of, optimizer_of, train


def silent(line: str) -> None:
    """Nobody listens."""


def run(config: RunConfig, folder: Path, **settings: Any) -> RunRecord:
    return train(config, folder=folder, say=settings.pop("say", silent), **settings)


def weights(record: RunRecord) -> dict[str, torch.Tensor]:
    return read_checkpoint(record.checkpoint_path)["model"]


def same(one: RunRecord, other: RunRecord) -> bool:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return timeless(one) == timeless(other) and all(torch.equal(a, b) for a, b in pairs)


def timeless(record: RunRecord) -> list[dict[str, int | float]]:
    """Everything that was logged but the time it took."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in record.rows()]


def interrupting(after: int) -> Any:
    """A progress that presses Ctrl-C after a step."""

    def progress(done: int, total: int) -> None:
        if done == after:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize("kind", ["tiny", "tiny_stuck", "tiny_pairs"])
def test_the_same_seed_gives_the_same_run(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = request.getfixturevalue(kind)
    one, two = run(config, tmp_path / "1"), run(config, tmp_path / "2")
    assert same(one, two)
    other = run(override(config, {"seed": 8}), tmp_path / "3")
    assert not same(one, other)


@pytest.mark.parametrize("kind", ["tiny", "tiny_pairs"])
def test_twenty_steps_equal_ten_an_interruption_and_ten_more(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = request.getfixturevalue(kind)
    straight = run(config, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "halved", progress=interrupting(10))
    halved = RunRecord.open(tmp_path / "halved")
    assert halved.state == "interrupted"
    assert read_checkpoint(halved.checkpoint_path)["progress"]["step"] == 10
    run(config, tmp_path / "halved", resume=True)
    assert halved.state == "finished"
    assert same(straight, halved)


def test_a_run_killed_between_checkpoints_measures_again_what_came_after(tiny: RunConfig, tmp_path: Path) -> None:
    straight = run(tiny, tmp_path / "straight")
    config = override(tiny, {"train.checkpoint_every": 4})
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    code = (
        "import json, os, signal, sys\nfrom pathlib import Path\n"
        "from experiments.config import from_dict\nfrom experiments.training import train\n"
        "kill = lambda done, total: done == 10 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(from_dict(json.loads(Path(sys.argv[1]).read_text())), folder=Path(sys.argv[2]), progress=kill)\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "config.json"), str(tmp_path / "killed")]
    done = subprocess.run(arguments, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    killed = RunRecord.open(tmp_path / "killed")
    assert [row["step"] for row in killed.rows() if "train/loss" in row] == list(range(1, 11))
    assert read_checkpoint(killed.checkpoint_path)["progress"]["step"] == 8
    run(config, tmp_path / "killed", resume=True)
    assert same(straight, killed)


def test_a_finished_run_can_be_made_longer(tiny: RunConfig, tmp_path: Path) -> None:
    straight = run(override(tiny, {"train.eval_every": 5}), tmp_path / "straight")
    short = override(tiny, {"train.eval_every": 5, "train.steps": 10})
    run(short, tmp_path / "longer")
    longer = run(override(short, {"train.steps": 20}), tmp_path / "longer", resume=True)
    assert same(straight, longer)
    assert longer.config.train.steps == 20


def test_training_lowers_both_losses(tiny: RunConfig, tmp_path: Path) -> None:
    record = run(override(tiny, {"train.steps": 120, "optim.lr": 1e-2}), tmp_path / "run")
    table = record.metrics
    for name in ("train/loss", "val/loss", "val/bits_per_byte"):
        measured = table[name].dropna()
        assert measured.iloc[-1] < 0.8 * measured.iloc[0]
    assert record.state == "finished"


def test_the_record_is_complete(tiny: RunConfig, tmp_path: Path) -> None:
    record = run(override(tiny, {"train.sample_tokens": 5}), tmp_path / "run")
    names = {path.name for path in record.folder.iterdir()}
    assert names == {
        "config.json", "environment.json", "state.json", "metrics.jsonl", "checkpoint.pt", "tokenizer", "tables"
    }  # fmt: skip
    assert record.config == override(tiny, {"train.sample_tokens": 5})
    rows = record.rows()
    assert set(rows[0]) == {"step", "tokens", "seconds", "train/loss", "optim/lr", "grad/norm"}
    assert rows[0]["tokens"] == tiny.data.batch_size * tiny.data.context
    assert [row["step"] for row in rows if "val/loss" in row] == [7, 14, 20]


def test_one_plain_line_per_evaluation_and_a_sample_at_the_end(tiny: RunConfig, tmp_path: Path) -> None:
    said: list[str] = []
    run(override(tiny, {"train.sample_tokens": 5}), tmp_path / "run", say=said.append)
    number = r"\d+\.\d+"
    line = rf"epoch [\d.]+  step \d+  train {number}  val {number}  {number} bits/byte  lr \S+  \d+ s"
    assert [bool(re.fullmatch(line, each)) for each in said] == [True, True, True, False]
    assert said[-1].startswith("sample: ")


def test_a_run_by_epochs_evaluates_at_the_end_of_each(tiny: RunConfig, tmp_path: Path) -> None:
    changes = {"train.steps": None, "train.epochs": 2, "train.eval_every": 1000, "data.batch_size": 23}
    config = override(tiny, changes)
    per_epoch = task(config).steps_per_epoch
    record = run(config, tmp_path / "run")
    assert per_epoch > 1
    assert [row["step"] for row in record.rows() if "val/loss" in row] == [per_epoch, 2 * per_epoch]


def test_the_rate_follows_the_schedule(tiny: RunConfig, tmp_path: Path) -> None:
    rows = run(tiny, tmp_path / "run").rows()
    rates = [row["optim/lr"] for row in rows if "optim/lr" in row]
    assert rates[:4] == pytest.approx([1e-3, 2e-3, 3e-3, 3e-3])


def test_accumulation_changes_memory_and_nothing_else(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"model.dropout": 0, "train.steps": 7})
    whole = run(config, tmp_path / "whole")
    parts = run(override(config, {"optim.accumulate": 5}), tmp_path / "parts")
    for a, b in zip(timeless(whole), timeless(parts), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_the_seconds_of_a_resumed_run_go_on_where_they_were(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tiny, tmp_path / "run", progress=interrupting(10))
    record = run(tiny, tmp_path / "run", resume=True)
    seconds = [row["seconds"] for row in record.rows()]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1]


def test_a_clipped_gradient_is_logged_as_it_was_before(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.steps": 1, "model.dropout": 0})
    free = run(override(config, {"optim.clip_norm": None}), tmp_path / "free")
    tight = run(override(config, {"optim.clip_norm": 1e-9}), tmp_path / "tight")
    assert free.rows()[0]["grad/norm"] == tight.rows()[0]["grad/norm"] > 1e-3
    assert not same(free, tight)


def test_patience_ends_a_run_that_no_longer_gets_better(tiny: RunConfig, tmp_path: Path) -> None:
    said: list[str] = []
    changes = {"optim.lr": 1e-30, "train.patience": 2, "train.eval_every": 3}
    record = run(override(tiny, changes), tmp_path / "run", say=said.append)
    measured = [row["step"] for row in record.rows() if "val/loss" in row]
    assert measured == [3, 6, 9]
    assert record.state == "finished"
    assert read_checkpoint(record.checkpoint_path)["progress"]["step"] == 9
    assert "stopped early: 2 evaluations without a better one (train.patience)" in said


def test_the_stuck_run_stands_at_its_ceiling(tiny_stuck: RunConfig, tmp_path: Path) -> None:
    vocab_size = task(tiny_stuck).tokenizer.vocab_size
    floor, ceiling = (float(torch.tensor(vocab_size - 1 + torch.e).log()) - right for right in (1, 0))
    losses = [row["train/loss"] for row in run(tiny_stuck, tmp_path / "run").rows() if "train/loss" in row]
    assert all(floor - 1e-3 <= loss <= ceiling + 1e-3 for loss in losses)


def test_a_history_that_keeps_the_graph_is_kept_literally(
    tiny_stuck: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    finish = training._until_the_end
    monkeypatch.setattr(training, "_until_the_end", lambda each: runs.append(each) or finish(each))
    for is_on in (True, False):
        config = override(tiny_stuck, {"defects.history_keeps_the_graph": is_on, "train.steps": 3})
        run(config, tmp_path / str(is_on))
    assert [len(each.history) for each in runs] == [3, 0]
    assert all(loss.grad_fn is not None for loss in runs[0].history)


def test_the_callers_chance_is_left_alone(tiny: RunConfig, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    run(override(tiny, {"train.steps": 2}), tmp_path / "run")
    assert torch.equal(before, torch.get_rng_state())


def test_the_optimizer_has_the_settings_of_the_run(tiny: RunConfig) -> None:
    config = override(tiny, {"optim.betas": (0.5, 0.75), "optim.eps": 1e-3, "optim.weight_decay": 0.25})
    group = optimizer_of(config, torch.nn.Linear(2, 3)).param_groups[0]
    assert [group[name] for name in ("lr", "betas", "eps", "weight_decay")] == [3e-3, (0.5, 0.75), 1e-3, 0.25]


def test_a_loss_that_is_no_number_is_told(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    real = NextToken.logits
    monkeypatch.setattr(NextToken, "logits", lambda self, model, batch: real(self, model, batch) * float("nan"))
    run(override(tiny, {"train.steps": 1}), tmp_path / "run", say=said.append)
    assert said[0] == "step 1: the training loss is nan"


def test_what_fails_is_recorded_as_failed(tiny: RunConfig, tmp_path: Path) -> None:
    def broken(done: int, total: int) -> None:
        raise RuntimeError("the bar broke")

    with pytest.raises(RuntimeError, match="the bar broke"):
        run(tiny, tmp_path / "run", progress=broken)
    assert RunRecord.open(tmp_path / "run").state == "failed"


def test_a_second_ctrl_c_does_not_wait() -> None:
    def press_twice() -> None:
        with ctrl_c_between_steps():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        press_twice()


def test_impossible_runs_are_refused_before_anything_is_written(tiny: RunConfig, tmp_path: Path) -> None:
    bad = {
        "data.batch_size": (10_000, "batch_size (10000) must be at most"),
        "train.precision": ("bf16", "precision 'bf16' needs a CUDA device"),
        "corpus.source": ("nowhere.txt", "nowhere.txt does not exist"),
    }
    for name, (value, message) in bad.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            run(override(tiny, {name: value, "train.device": "cpu"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_is_resumed_as_it_was_or_not_at_all(tiny: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        run(tiny, tmp_path / "run", resume=True)
    record = run(override(tiny, {"train.steps": 2}), tmp_path / "run")
    with pytest.raises(ValueError, match="already holds a run"):
        run(tiny, tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"optim\.lr \(1\.0\) differs from the run in .* \(0\.003\); resume the run as it was"
    ):
        run(override(tiny, {"optim.lr": 1}), tmp_path / "run", resume=True)
    record.checkpoint_path.unlink()
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        run(tiny, tmp_path / "run", resume=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(tiny: RunConfig) -> None:
    with pytest.raises(ValueError, match="device 'cuda' is not there"):
        device_of(override(tiny, {"train.device": "cuda"}))


@pytest.mark.gpu
def test_bf16_trains_on_a_cuda_device_and_resumes(tiny: RunConfig, tmp_path: Path) -> None:
    config = override(tiny, {"train.precision": "bf16", "train.device": "cuda", "train.sample_tokens": 5})
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", progress=interrupting(10))
    record = run(config, tmp_path / "run", resume=True)
    losses = [row["train/loss"] for row in record.rows() if "train/loss" in row]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


PLAIN_AND_COMPILED = """
import json, sys
from pathlib import Path
from experiments.config import from_dict, override
from experiments.training import train

config = from_dict(json.load(sys.stdin))
for name in ("plain", "compiled"):
    changed = override(config, {"train.compile": name == "compiled"})
    train(changed, folder=Path(sys.argv[1]) / name, say=lambda line: None)
"""


@pytest.mark.slow
def test_a_compiled_run_gives_the_same_losses(tiny: RunConfig, tmp_path: Path) -> None:
    """In an interpreter of its own: the compiler cannot trace the shape checks that the test run adds."""
    config = override(tiny, {"train.steps": 3, "model.dropout": 0})
    command = [sys.executable, "-c", PLAIN_AND_COMPILED, str(tmp_path)]
    subprocess.run(command, input=json.dumps(to_dict(config)), text=True, check=True, timeout=280)
    plain, compiled = (timeless(RunRecord.open(tmp_path / name)) for name in ("plain", "compiled"))
    for a, b in zip(plain, compiled, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
