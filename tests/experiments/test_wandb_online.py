"""Every kind of run reaches a W&B server through the real client, and comes back through the real public API."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from experiments.record import RunRecord
from tests.experiments.loopback import KEY, Run, Server, serving

ROOT = Path(__file__).parents[2]
KINDS = ("train", "overfit", "gradients", "tying")
TINY = {
    "corpus.source": "pydoc", "tokenizer.vocab_size": 277, "data.context": 5, "data.batch_size": 7,
    "model.d_model": 8, "model.num_heads": 2, "model.num_layers": 1, "model.d_ff": 11, "train.steps": 5,
    "train.log_every": 1, "train.eval_every": 2, "train.eval_batches": 2, "train.sample_tokens": 3,
    "optim.warmup_steps": 0, "track.group": "harbour", "track.tags": "red,blue", "track.notes": "a remark",
}  # fmt: skip
COMMANDS = """
import sys
from experiments.commands import main
for command in sys.argv[1:]:
    sys.argv = ["unplateau", *command.split("|")]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""
HURRIED = """
from experiments import tracking
tracking.INIT_SECONDS = tracking.FINISH_SECONDS = 5
"""
READ = """
import json, wandb
api = wandb.Api()
for run in api.runs("local/unplateau", filters={"group": "harbour"}, lazy=False):
    print(json.dumps({
        "id": run.id, "name": run.name, "state": run.state, "job": run.job_type, "tags": sorted(run.tags),
        "notes": run.notes, "lr": run.config["optim"]["lr"], "history": run.history(pandas=False),
        "scanned": list(run.scan_history(keys=["step"])), "summary": dict(run.summary),
        "artifacts": [[each.type, each.name, each.logged_by().id] for each in run.logged_artifacts()],
    }, default=dict))
"""


def client(code: str, *arguments: str, url: str, folder: Path, key: str = KEY, seconds: int = 60) -> str:
    """What a process says that has a key, no terminal, and nothing of the caller's W&B settings."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    around |= {"NETRC": str(folder / "no-netrc"), "PYTHONPATH": str(ROOT), "WANDB_API_KEY": key}
    around |= {f"WANDB_{each}_DIR": str(folder / "w" / each) for each in ("CACHE", "CONFIG", "DATA")}
    mark = f"UNPLATEAU_TEST={uuid.uuid4()}"
    around |= dict([mark.split("=")])
    command = [sys.executable, "-c", code, *arguments]
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": seconds, "stdin": subprocess.DEVNULL}
    done = subprocess.run(command, env=around | {"WANDB_BASE_URL": url}, cwd=folder, check=False, **settings)
    assert (done.returncode, done.stderr[-500:]) == (0, "")
    deadline = time.monotonic() + 10
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    return done.stdout


def processes_with(mark: str) -> list[str]:
    """Processes with a word in their environment, such as what a client has left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it is over, or somebody else's
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def command(kind: str, folder: Path) -> str:
    """A command that is over in a blink, its words joined by bars."""
    own = {"overfit": ["--steps=3", "--seeds=1", "--workers=1"], "gradients": ["--steps=3"],
           "tying": ["--steps=3", "--seeds=2", "--workers=1"]}  # fmt: skip
    settings = [f"--set={name}={value}" for name, value in TINY.items()]
    return "|".join([kind, "--wandb=online", f"--out={folder}", *settings, *own.get(kind, [])])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that one run of each kind has reached."""
    folder = tmp_path_factory.mktemp("kinds")
    with serving() as server:
        client(COMMANDS, *(command(kind, folder / kind) for kind in KINDS), url=server.url, folder=folder, seconds=90)
        yield server


def run_of(server: Server, kind: str) -> Run:
    """The run with this job type."""
    (found,) = (run for run in server.runs.values() if run.told["jobType"] == kind)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind_arrives_with_what_it_is_and_where_it_belongs(server: Server, kind: str) -> None:
    run = run_of(server, kind)
    assert (run.told["groupName"], set(run.told["tags"]), run.told["notes"]) == ("harbour", {"red", "blue"}, "a remark")
    assert run.config["model"]["d_ff"] == 11
    assert run.metrics["*"] == run.metrics["val/loss"] == run.metrics["tokens"] == "step"
    assert run.state == "finished"
    assert server.unanswered == set()


@pytest.mark.slow
def test_curves_pictures_and_tables_arrive(server: Server) -> None:
    found = {kind: {name for row in run_of(server, kind).history for name in row} for kind in KINDS}
    assert {"train/loss", "val/bits_per_byte", "optim/lr", "grad/norm", "sample"} <= found["train"]
    assert {"one-batch/loss", "overfit"} <= found["overfit"]
    assert {"gradients", "grad/norm", "gradient-norms", "update-ratios"} <= found["gradients"]
    assert "tying" in found["tying"]
    uploaded = [name for name, content in server.store.uploads.items() if content]
    assert any(run_of(server, "overfit").id in name and name.endswith(".png") for name in uploaded)
    assert any(run_of(server, "train").id in name and name.endswith(".table.json") for name in uploaded)


@pytest.mark.slow
def test_the_summary_has_the_least_and_the_last(server: Server) -> None:
    run = run_of(server, "train")
    losses = [row["val/bits_per_byte"] for row in run.history if "val/bits_per_byte" in row]
    summary = run.summary["val/bits_per_byte"]
    assert summary == {"min": min(losses), "last": losses[-1]}


@pytest.mark.slow
def test_the_run_that_trained_logs_tokenizer_and_checkpoint(server: Server) -> None:
    run = run_of(server, "train")
    made = {each.kind: each for each in server.artifacts if each.made_by == run.id and each.kind != "run_table"}
    assert {"tokenizer", "checkpoint"} <= set(made)
    assert made["checkpoint"].files == ["checkpoint.pt"]
    assert made["checkpoint"].name == f"{run.id}-checkpoint"
    assert made["tokenizer"].is_whole
    assert made["checkpoint"].is_whole


@pytest.mark.slow
def test_the_public_api_gives_back_what_was_told(server: Server, tmp_path: Path) -> None:
    lines = client(READ, url=server.url, folder=tmp_path).splitlines()
    found = {run["job"]: run for run in map(json.loads, lines)}
    assert set(found) == set(KINDS)
    train, run = found["train"], run_of(server, "train")
    assert (train["state"], train["tags"], train["notes"], train["name"]) == (
        "finished",
        ["blue", "red"],
        "a remark",
        "small",
    )
    assert train["history"] == run.history
    assert [row["step"] for row in train["scanned"]] == [row["step"] for row in run.history if "step" in row]
    assert {kind for kind, _, by in train["artifacts"] if by == run.id} >= {"tokenizer", "checkpoint"}
    assert server.unanswered == set()


@pytest.mark.slow
@pytest.mark.parametrize("mood", ["fails", "hangs-up", "is-slow"])
def test_a_server_in_any_mood_costs_seconds_and_no_row(mood: str, tmp_path: Path) -> None:
    with serving() as server:
        server.mood = mood  # type: ignore[assignment]
        said = client(HURRIED + COMMANDS, command("train", tmp_path / "run"), url=server.url, folder=tmp_path)
    record = RunRecord.open(tmp_path / "run")
    assert record.state == "finished"
    assert [row["step"] for row in record.rows() if "train/loss" in row] == [1, 2, 3, 4, 5]
    assert said.count("`wandb sync ") == 1


@pytest.mark.slow
def test_a_wrong_key_is_one_line_and_an_offline_run(tmp_path: Path) -> None:
    with serving() as server:
        said = client(COMMANDS, command("train", tmp_path / "run"), url=server.url, folder=tmp_path, key="w" * 40)
    assert said.count("W&B is not reachable (") == 1
    assert said.count("`wandb sync ") == 1
    assert server.runs == {}
    assert RunRecord.open(tmp_path / "run").state == "finished"
