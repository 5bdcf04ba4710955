"""Every tracker keeps one contract; W&B is run for real, offline, and against a client that fails."""

import json
import os
import re
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.config import TrackConfig, override
from experiments.recipes import small
from experiments.tracking import (
    FileTracker,
    ShortRun,
    Tracker,
    Trackers,
    WandbTracker,
    chosen_mode,
    has_login,
    open_tracker,
    track_group,
)
from tests.experiments.loopback import KEY, serving

ROOT = Path(__file__).parents[2]


def png() -> bytes:
    """A white picture of one pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\xff")) + chunk(b"IEND", b"")
    )


class FakeRun:
    """Remembers what a W&B run is told, and fails on demand."""

    id = "abcd"
    dir = "/runs/run-abcd/files"

    def __init__(self, fails: bool = False) -> None:
        self.told: list[tuple[str, Any]] = []
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            if self.fails:
                raise ConnectionResetError("the process is gone\nlong story")
            self.told.append((name, (args, kwargs)))

        return call


class TrackerContract:
    """What a run may do with any tracker; each implementation inherits these tests."""

    @pytest.fixture
    def tracker(self, tmp_path: Path) -> Tracker:
        raise NotImplementedError

    def test_it_is_a_tracker(self, tracker: Tracker) -> None:
        assert isinstance(tracker, Tracker)

    def test_it_takes_everything_that_a_run_tells(self, tracker: Tracker, tmp_path: Path) -> None:
        report = tmp_path / "report.html"
        report.write_text("<p>done</p>")
        tracker.log({"step": 1, "tokens": 320, "train/loss": 2.5})
        tracker.log({"step": 2, "tokens": 640, "val/loss": float("nan")})
        tracker.picture("gradients", png())
        tracker.table("levels", ["name", "nats"], [["uniform", 4.2], ["unigram", 3]])
        tracker.file(report, kind="report")
        tracker.finish()

    def test_it_may_be_finished_twice_and_after_a_failure(self, tracker: Tracker) -> None:
        tracker.finish(failed=True)
        tracker.finish()

    def test_it_does_not_change_what_it_is_given(self, tracker: Tracker) -> None:
        metrics: dict[str, int | float] = {"step": 1, "train/loss": 2.5}
        rows = [["uniform", 4.2]]
        tracker.log(metrics)
        tracker.table("levels", ["name", "nats"], rows)
        assert metrics == {"step": 1, "train/loss": 2.5}
        assert rows == [["uniform", 4.2]]


class TestFileTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, tmp_path: Path) -> Tracker:
        return FileTracker(tmp_path / "run")

    def test_every_line_is_on_disk_at_once(self, tmp_path: Path) -> None:
        tracker = FileTracker(tmp_path)
        for step in range(3):
            tracker.log({"step": step})
            lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in lines] == [{"step": i} for i in range(step + 1)]

    def test_pictures_tables_and_files_are_below_the_folder(self, tmp_path: Path) -> None:
        tracker = FileTracker(tmp_path / "run")
        report = tmp_path / "report.html"
        report.write_text("<p>done</p>")
        tracker.picture("gradients", png())
        tracker.table("levels", ["name", "nats"], [["uniform, all", 4.5]])
        tracker.file(report, kind="report")
        tracker.file(tmp_path / "run" / "report" / "report.html", kind="report")
        assert (tmp_path / "run" / "pictures" / "gradients.png").read_bytes() == png()
        assert (tmp_path / "run" / "tables" / "levels.csv").read_text().split() == [
            "name,nats",
            '"uniform,',
            'all",4.5',
        ]
        assert (tmp_path / "run" / "report" / "report.html").read_text() == "<p>done</p>"

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"metrics\.jsonl cannot be written: "):
            FileTracker(tmp_path / "file").log({"step": 1})


class TestWandbTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, tmp_path: Path) -> Tracker:
        return WandbTracker(FakeRun(), say=print)

    def test_metrics_are_defined_over_steps_and_a_step_is_never_passed(self) -> None:
        run = FakeRun()
        WandbTracker(run, say=print).log({"step": 7, "tokens": 2240, "val/loss": 2.5})
        told = [(args, kwargs) for name, (args, kwargs) in run.told if name == "define_metric"]
        assert (("*",), {"step_metric": "step"}) in told
        assert (
            ("val/bits_per_byte",), {"step_metric": "step", "summary": "min,last"}
        ) in told  # fmt: skip
        assert run.told[-1] == ("log", (({"step": 7, "tokens": 2240, "val/loss": 2.5},), {}))

    def test_the_exit_code_says_whether_the_run_failed(self) -> None:
        run = FakeRun()
        WandbTracker(run, say=print).finish(failed=True)
        assert run.told[-1] == ("finish", ((), {"exit_code": 1}))

    def test_a_dead_process_is_told_once_and_disturbs_nobody(self) -> None:
        said: list[str] = []
        run = FakeRun()
        tracker = WandbTracker(run, say=said.append)
        run.fails = True
        for step in range(3):
            tracker.log({"step": step})
        tracker.picture("gradients", png())
        tracker.finish()
        upload = "upload the rest with `wandb sync --include-online /runs/run-abcd`"
        assert said == [f"W&B stopped (the process is gone); the record on disk goes on; {upload}"]


class TestTrackers(TrackerContract):
    @pytest.fixture
    def tracker(self, tmp_path: Path) -> Tracker:
        return Trackers([FileTracker(tmp_path / "1"), FileTracker(tmp_path / "2")])

    def test_each_of_them_hears_everything(self, tmp_path: Path) -> None:
        tracker = Trackers([FileTracker(tmp_path / "1"), FileTracker(tmp_path / "2")])
        tracker.log({"step": 1})
        assert (tmp_path / "1" / "metrics.jsonl").read_text() == (tmp_path / "2" / "metrics.jsonl").read_text() != ""


class TestNoTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, tmp_path: Path) -> Iterator[Tracker]:
        with open_tracker(override(small(), {"track.mode": "disabled"}), tmp_path) as tracker:
            yield tracker


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A user without a login and without wishes."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return monkeypatch


def test_the_mode_is_ours_to_choose(nobody: pytest.MonkeyPatch) -> None:
    auto = TrackConfig()
    assert chosen_mode(auto) == "offline"
    nobody.setenv("WANDB_API_KEY", "k" * 40)
    assert chosen_mode(auto) == "online"
    nobody.setenv("WANDB_MODE", "dryrun")
    assert chosen_mode(auto) == "offline"
    assert chosen_mode(TrackConfig(mode="disabled")) == "disabled"
    nobody.setenv("WANDB_MODE", "sometimes")
    assert chosen_mode(TrackConfig(mode="online")) == "online"
    with pytest.raises(ValueError, match=re.escape("WANDB_MODE ('sometimes') must be one of online, run, shared")):
        chosen_mode(auto)


def test_a_login_is_looked_up_in_the_netrc_file(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_login()
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password secret\n")
    assert has_login()
    nobody.setenv("WANDB_BASE_URL", "https://tracking.example.net")
    assert not has_login()
    (tmp_path / "netrc").write_text("machine tracking.example.net login user password secret\n")
    assert has_login()
    (tmp_path / "netrc").write_text("not a netrc file")
    assert not has_login()


def test_where_nothing_starts_the_run_goes_on(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import wandb

    asked: list[str] = []

    def init(**settings: Any) -> None:
        asked.append(settings["mode"])
        raise wandb.errors.CommError("no route\nto host")

    nobody.setattr(wandb, "init", init)
    said: list[str] = []
    with open_tracker(override(small(), {"track.mode": "online"}), tmp_path, say=said.append) as tracker:
        tracker.log({"step": 1})
    assert asked == ["online", "offline"]
    assert said == [
        "W&B is not reachable (no route); tracking offline",
        "W&B could not start (no route); the record on disk has everything",
    ]


def test_a_run_carries_its_configuration_and_where_it_belongs(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import wandb

    found: dict[str, Any] = {}

    def init(**settings: Any) -> Any:
        found.update(settings)
        run = FakeRun()
        run.__dict__.update(url="https://example.org/run", dir=str(tmp_path))
        return run

    nobody.setattr(wandb, "init", init)
    track = {"track.group": "pairs", "track.job_type": "trial", "track.tags": ("a", "b"), "track.mode": "online"}
    config = override(small(), track)
    said: list[str] = []
    with open_tracker(config, tmp_path, say=said.append):
        pass
    assert found["config"]["optim"]["lr"] == config.optim.lr
    assert (found["group"], found["job_type"], found["tags"]) == ("pairs", "trial", ["a", "b"])
    assert (found["settings"].console, found["settings"].init_timeout) == ("off", 20)
    assert found["settings"].finish_timeout == 60
    assert said == ["W&B: https://example.org/run"]
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    first = found["id"]
    with open_tracker(config, tmp_path, say=said.append):
        pass
    assert found["id"] == first


def test_runs_that_are_over_are_told_one_by_one_in_their_group(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import wandb

    started: list[tuple[dict[str, Any], FakeRun]] = []

    def init(**settings: Any) -> Any:
        started.append((settings, FakeRun()))
        return started[-1][1]

    nobody.setattr(wandb, "init", init)
    config = override(small(), {"track.group": "harbour", "track.job_type": "trial", "track.mode": "offline"})
    runs = [ShortRun(name=f"side {seed}", config={"seed": seed}, rows=[{"step": 1, "loss": 2.5}]) for seed in (2, 3)]
    assert track_group(config, tmp_path, runs, say=print) == 2
    about = [(each["name"], each["config"], each["group"], each["job_type"], each["mode"]) for each, _ in started]
    assert about == [(f"side {seed}", {"seed": seed}, "harbour", "trial", "offline") for seed in (2, 3)]
    assert len({each["id"] for each, _ in started}) == 2
    assert [name for name, _ in started[0][1].told] == ["define_metric", "define_metric", "log", "finish"]
    assert ("log", (({"step": 1, "loss": 2.5},), {})) in started[0][1].told


def test_a_group_stops_at_its_time_at_a_failure_and_where_tracking_is_disabled(
    nobody: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    from experiments import tracking

    def refused(**_: Any) -> None:
        raise wandb.errors.CommError("no route\nto host")

    said: list[str] = []
    runs = [ShortRun(name="side", config={}, rows=[])]
    group = {"track.group": "harbour", "track.mode": "offline"}
    nobody.setattr(wandb, "init", refused)
    assert track_group(override(small(), {"track.mode": "disabled"}), tmp_path, runs, say=said.append) == 0
    assert said == []
    assert track_group(override(small(), group), tmp_path, runs, say=said.append) == 0
    assert said == ["W&B: no more runs of the group harbour (no route)"]
    nobody.setattr(tracking, "GROUP_SECONDS", -1)
    nobody.setattr(wandb, "init", lambda **_: FakeRun())
    assert track_group(override(small(), group), tmp_path, runs, say=said.append) == 0
    assert len(said) == 1


RUN = """
import os, sys, urllib.request
from pathlib import Path
from experiments import tracking
from experiments.config import override
from experiments.recipes import small
tracking.INIT_SECONDS = tracking.FINISH_SECONDS = 5
folder = Path(sys.argv[1])
report = folder / "report.html"
report.write_text("<p>done</p>")
track = {"track.group": "harbour", "track.job_type": "trial", "track.tags": ("red", "blue")}
with tracking.open_tracker(override(small(), track), folder) as tracker:
    for step in (1, 2):
        tracker.log({"step": step, "tokens": 320 * step, "train/loss": 2.5})
    if sys.argv[2:] == ["outage"]:
        urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/mood/hangs-up", data=b"")
        tracker.log({"step": 3, "tokens": 960, "train/loss": 2.5})
    elif sys.argv[2:]:
        tracker.picture("gradients", bytes.fromhex(sys.argv[2]))
        tracker.table("levels", ["name", "nats"], [["uniform", 4.2]])
        tracker.file(report, kind="report")
"""


def tracked(folder: Path, *arguments: str, **environment: str) -> str:
    """What a process says that tracks a short run; nothing of the caller's W&B settings reaches it."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    around |= {"NETRC": str(folder / "no-netrc"), "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", RUN, str(folder), *arguments]
    settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 100, "stdin": subprocess.DEVNULL}
    done = subprocess.run(command, env=around, cwd=folder, check=False, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def offline_records(said: str) -> bytes:
    """The one file of an offline run, found through the line that says how to upload it."""
    folder = re.fullmatch(r"W&B: offline, upload with `wandb sync (.+)`", said)
    assert folder
    (records,) = Path(folder[1]).glob("run-*.wandb")
    return records.read_bytes()


def test_offline_works_for_real_without_a_login_and_without_a_question(tmp_path: Path) -> None:
    content = offline_records(tracked(tmp_path, png().hex()))
    assert all(word in content for word in (b"train/loss", b"levels", b"gradients", b"report"))


def test_online_works_for_real_with_a_login(tmp_path: Path) -> None:
    with serving() as server:
        said = tracked(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    ((run, told),) = server.runs.items()
    assert said == f"W&B: {server.url}/local/unplateau/runs/{run}"
    assert [(row["step"], row["tokens"], row["train/loss"]) for row in server.history(run)] == [
        (1, 320, 2.5),
        (2, 640, 2.5),
    ]
    about = told.told
    assert (about["groupName"], about["jobType"], set(about["tags"])) == ("harbour", "trial", {"red", "blue"})
    assert told.config["optim"]["lr"] == small().optim.lr
    assert server.exit_codes == {run: 0}


def test_an_outage_in_the_middle_does_not_hold_up_the_end(tmp_path: Path) -> None:
    began = time.monotonic()
    with serving() as server:
        said = tracked(tmp_path, "outage", WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    first, last = said.splitlines()
    assert first.startswith(f"W&B: {server.url}/")
    sync = re.fullmatch(r"W&B stopped \(.+\); .+ `wandb sync --include-online (.+)`", last)
    assert sync
    assert list(Path(sync[1]).glob("run-*.wandb"))
    assert time.monotonic() - began < 60


def test_a_server_that_is_not_there_costs_seconds_and_leaves_an_offline_run(tmp_path: Path) -> None:
    with serving() as server:
        gone = server.url
    first, second = tracked(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=gone).splitlines()
    assert first.startswith("W&B is not reachable (")
    assert first.endswith("; tracking offline")
    assert b"train/loss" in offline_records(second)


LIGHT = """
import sys
import experiments, experiments.config, experiments.recipes, experiments.record, experiments.tracking
print([name for name in ("torch", "wandb", "pandas", "matplotlib", "numpy") if name in sys.modules])
"""


def test_settings_records_and_trackers_load_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
