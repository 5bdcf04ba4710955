"""Comparisons: the same from records, from W&B's offline directories, and worked out by hand."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from experiments.compare import Frames, compare, differing, failures, labels, load_runs, write_table
from experiments.condition import parse
from experiments.config import RunConfig, override, to_dict
from tests.experiments.loopback import serving
from tests.experiments.written_runs import falling, write_record

ROOT = Path(__file__).parents[2]
TRAIN = """
import json, sys
from pathlib import Path
from experiments.config import from_dict, override
from experiments.data import prepare
from experiments.tracking import open_tracker
from experiments.training import train

def stop(done, total):
    if done == 10:
        raise KeyboardInterrupt

config, folder = from_dict(json.loads(sys.argv[1])), Path(sys.argv[2])
data = prepare(config)
for lr, seed in ((1e-3, 2), (1e-3, 3), (1e-2, 2), (1e-2, 3)):
    changed = override(config, {"optim.lr": lr, "seed": seed, "train.sample_tokens": 5})
    place, halves = folder / f"{lr}-{seed}", (True, False) if (lr, seed) == (1e-2, 3) else (False,)
    for half in halves:
        try:
            with open_tracker(changed, place, say=lambda line: None) as tracker:
                train(changed, folder=place, tracker=tracker, data=data, resume=half is False and len(halves) > 1,
                      say=lambda line: None, progress=stop if half else None)
        except KeyboardInterrupt:
            pass
"""


@pytest.fixture
def trained(tiny: RunConfig, tmp_path: Path) -> Path:
    """Two learning rates with two seeds each, by the trainer with W&B offline; the last was stopped and resumed."""
    folder = tmp_path / "trained"
    train_four(tiny, folder, WANDB_MODE="offline")
    return folder


def train_four(config: RunConfig, folder: Path, **environment: str) -> None:
    """Run TRAIN in an interpreter of its own."""
    around = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", TRAIN, json.dumps(to_dict(config)), str(folder)]
    subprocess.run(command, env=around, timeout=200, check=True, stdin=subprocess.DEVNULL)


def test_records_and_their_offline_wandb_directories_compare_the_same(trained: Path) -> None:
    records = sorted(trained.iterdir())
    ours, theirs = load_runs(*records), load_runs(*[record / "wandb" for record in records])
    assert_frame_equal(ours.curves, theirs.curves)
    for part in ("config", "best", "last"):
        assert_frame_equal(ours.runs[part], theirs.runs[part])
    one, other = compare(ours), compare(theirs)
    assert_frame_equal(one.table, other.table)
    assert_frame_equal(one.groups, other.groups)
    assert (one.contrasts, one.partings, one.notes) == (other.contrasts, other.partings, other.notes)
    assert one.differing == ("optim.lr", "seed")
    assert [each.seeds for each in one.contrasts] == [2]
    assert set(ours.curves.columns) > {"run", "step", "tokens", "seconds", "train/loss", "val/bits_per_byte"}


READ = """
import sys
import pandas as pd
from experiments.compare import load_runs
frames = load_runs(*sys.argv[2:])
pd.to_pickle(tuple(frames), sys.argv[1])
"""


def read_elsewhere(to: Path, *sources: str, **environment: str) -> Frames:
    """What `load_runs` gives in an interpreter of its own: wandb remembers the first server that it meets."""
    around = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", READ, str(to), *sources]
    subprocess.run(command, env=around, timeout=100, check=True, stdin=subprocess.DEVNULL)
    return Frames(*pd.read_pickle(to))


def test_records_and_a_wandb_server_compare_the_same(tiny: RunConfig, tmp_path: Path) -> None:
    """The real client tells a server on this machine, the real public API asks it."""
    with serving() as server:
        online = {"WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": server.url}
        grouped = override(tiny, {"track.group": "warm", "track.mode": "online"})
        train_four(grouped, tmp_path / "trained", **online)
        whole = read_elsewhere(tmp_path / "whole", "local/unplateau?group=warm", **online)
        first = next(iter(server.runs))
        single = read_elsewhere(tmp_path / "single", f"local/unplateau/{first}", **online)
    ours = load_runs(tmp_path / "trained")
    assert_frame_equal(ours.curves, whole.curves)
    for part in ("config", "best", "last"):
        assert_frame_equal(ours.runs[part], whole.runs[part])
    assert compare(ours).contrasts == compare(whole).contrasts
    assert whole.runs["about"]["where"].tolist() == [f"local/unplateau/{run}" for run in server.runs]
    assert single.runs["best"]["val/loss"].tolist() == ours.runs["best"]["val/loss"].tolist()[:1]


def test_a_wandb_path_that_names_no_run_is_one_line(tmp_path: Path) -> None:
    with serving() as server:
        online = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": server.url}
        around = os.environ | {"PYTHONPATH": str(ROOT), **online}
        for source, message in (
            ("local/unplateau?group=cold", "local/unplateau?group=cold names no run on W&B"),
            ("local/unplateau/nobody", "local/unplateau/nobody cannot be read from W&B: "),
        ):
            command = [sys.executable, "-c", "from experiments.commands import main; main()", "compare", source]
            done = subprocess.run(command, env=around, capture_output=True, text=True, timeout=100, check=False)
            assert done.returncode == 2
            assert done.stderr.startswith(f"unplateau: {message}")
            assert done.stderr.count("\n") == 1


def test_a_folder_of_records_is_read_as_records_and_not_twice(trained: Path) -> None:
    frames = load_runs(trained)
    assert [Path(where).name for where in frames.runs["about"]["where"]] == ["0.001-2", "0.001-3", "0.01-2", "0.01-3"]
    assert list(frames.runs.index) == ["lr=0.001 seed=2", "lr=0.001 seed=3", "lr=0.01 seed=2", "lr=0.01 seed=3"]


def test_a_killed_run_compares_up_to_its_last_logged_step(tiny: RunConfig, tmp_path: Path) -> None:
    code = (
        "import json, os, signal, sys\nfrom pathlib import Path\n"
        "from experiments.config import from_dict\nfrom experiments.training import train\n"
        "kill = lambda done, total: done == 11 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(from_dict(json.loads(sys.argv[1])), folder=Path(sys.argv[2]), progress=kill, say=lambda line: None)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(to_dict(tiny)), str(tmp_path / "killed")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    whole = write_record(tmp_path / "whole", falling(3.0))
    found = compare(load_runs(whole, tmp_path / "killed"), baseline=str(whole))
    killed = found.results.loc["tiny"]
    assert (killed["state"], killed["steps"]) == ("killed", 11)
    assert killed["best"] > 0
    assert "not every run is finished (1 killed of 2): each counts up to its last row" in found.notes
    assert found.partings[0].until <= 11 * tiny.data.batch_size * tiny.data.context


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three learning rates with three seeds each; a seed moves the loss by hundredths, the middle rate not evenly."""
    for lr, end in ((0.1, 3.0), (0.2, 2.9), (0.4, 3.5)):
        for seed in (2, 3, 5):
            loss = end + seed / 100 + 0.001 * (seed == 3) * (lr == 0.2)
            write_record(tmp_path / "runs" / f"{lr}-{seed}", falling(loss), optim__lr=lr, seed=seed)
    return tmp_path / "runs"


def test_runs_that_differ_in_their_seed_only_are_a_group(sweep: Path) -> None:
    found = compare(load_runs(sweep))
    assert list(found.groups.index) == ["lr=0.1", "lr=0.2", "lr=0.4"]
    assert found.groups["runs"].tolist() == [3, 3, 3]
    mean = (3.02 + 3.03 + 3.05) / 3 / 2
    assert found.groups.loc["lr=0.1", "mean"] == pytest.approx(mean)
    assert found.groups.loc["lr=0.1", "lowest"] == pytest.approx(1.51)
    told = [each.sentence for each in found.contrasts]
    assert told[0].startswith("lr=0.2 is better than lr=0.1 by 0.0498")
    assert told[1] == "lr=0.1 is better than lr=0.4 by 0.25 +- 0.00 bits/byte, 3 seeds, paired"
    assert "they differ in optim.lr (0.2 against 0.1)" in found.partings[0].sentence


def test_another_setting_can_be_what_is_repeated(sweep: Path) -> None:
    found = compare(load_runs(sweep), over="optim.lr", metric="val/loss")
    assert list(found.groups.index) == ["seed=2", "seed=3", "seed=5"]
    assert found.contrasts[0].kind == "paired"


def test_the_baseline_is_a_group_a_run_or_a_place(sweep: Path) -> None:
    frames = load_runs(sweep)
    for wished in ("lr=0.2", "lr=0.2 seed=3", str(sweep / "0.2-5")):
        found = compare(frames, baseline=wished)
        assert found.baseline == "lr=0.2"
        assert [each.group for each in found.contrasts] == ["lr=0.1", "lr=0.4"]
    with pytest.raises(ValueError, match=r"no run or group 'lr=0\.3' to compare with; did you mean 'lr="):
        compare(frames, baseline="lr=0.3")


def test_what_is_not_there_is_refused_with_the_nearest(sweep: Path) -> None:
    frames = load_runs(sweep)
    with pytest.raises(ValueError, match="no run measured 'val/los'; did you mean 'val/loss'"):
        compare(frames, metric="val/los")
    with pytest.raises(ValueError, match=r"no run has a setting 'optim\.lrr' to group over; did you mean 'optim\.lr'"):
        compare(frames, over="optim.lrr")
    with pytest.raises(ValueError, match="no run logged seconds; align on one of: step, tokens"):
        compare(frames._replace(curves=frames.curves.drop(columns="seconds")), axis="seconds")
    with pytest.raises(ValueError, match=r"nowhere does not exist"):
        load_runs(sweep / "nowhere")
    with pytest.raises(ValueError, match="there is no run to compare"):
        load_runs()


def test_a_wandb_path_without_a_login_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match="team/project does not exist; as a W&B path it needs a login"):
        load_runs("team/project")


def test_only_what_decides_a_run_counts_as_a_difference() -> None:
    config = pd.DataFrame(
        {"name": ["a", "b"], "track.group": ["c", "d"], "optim.lr": [0.1, 0.1], "betas": [(0.9, 1), (0.9, 2)]}
    )
    assert differing(config) == ["betas"]


def test_settings_may_have_the_names_of_results(tmp_path: Path) -> None:
    """Other people's configurations know nothing of our columns."""
    for steps in (2, 3):
        record = write_record(tmp_path / "runs" / str(steps), falling(3.0))
        config = {"steps": steps, "state": "new", "best": 7 - steps, "group": "a", "run": 1, "where": "there"}
        (record / "config.json").write_text(json.dumps(config))
    frames = load_runs(tmp_path / "runs")
    found = compare(frames)
    assert found.differing == ("best", "steps")
    assert found.table["config"]["steps"].tolist() == [2, 3]
    assert found.table["result"]["steps"].tolist() == [20, 20]
    write_table(frames.runs, tmp_path / "runs.csv")
    back = pd.read_csv(tmp_path / "runs.csv")
    assert (back["steps"].tolist(), back["config.steps"].tolist()) == ([20, 20], [2, 3])


def test_many_comparisons_come_with_a_warning(tmp_path: Path) -> None:
    for place in range(12):
        write_record(tmp_path / f"{place:02}", falling(3.0), optim__lr=0.1 + place // 2, seed=place % 2)
    assert "of 5 comparisons about one in twenty finds a difference" in " ".join(compare(load_runs(tmp_path)).notes)


def test_no_two_runs_have_the_same_label() -> None:
    nothing = pd.DataFrame(index=range(3))
    assert labels(["a", "b", "c"], nothing) == ["a", "b", "c"]
    assert labels(["a", "a", "b"], nothing) == ["a #1", "a #2", "b"]
    two = pd.DataFrame({"seed": [2, 2, 3], "optim.lr": [0.1, 0.1, 0.2]}, dtype=object)
    assert labels(["a", "a", "a"], two) == ["lr=0.1 seed=2 #1", "lr=0.1 seed=2 #2", "lr=0.2 seed=3"]
    assert labels(["a", "a", "b"], two) == ["a (lr=0.1 seed=2) #1", "a (lr=0.1 seed=2) #2", "b (lr=0.2 seed=3)"]


def check(sweep: Path, text: str, **settings: str) -> list[str]:
    frames = load_runs(sweep)
    return failures(compare(frames, **settings), parse(text, frames.runs["last"].columns))


def test_a_check_names_every_group_that_fails(sweep: Path) -> None:
    assert check(sweep, "val/bits_per_byte > 1.02 * baseline") == [
        "lr=0.4: val/bits_per_byte 1.767; lr=0.1: val/bits_per_byte 1.517"
    ]
    assert check(sweep, "val/bits_per_byte > 1.2 * baseline") == []
    assert len(check(sweep, "val/loss > baseline", baseline="lr=0.2")) == 2


def test_a_run_that_went_astray_fails_every_check(sweep: Path) -> None:
    rows = [*falling(2.0), {"step": 20, "tokens": 640, "seconds": 10.0, "val/loss": math.nan}]
    write_record(sweep / "0.1-7", rows, optim__lr=0.05, seed=2)
    assert [line.split(":")[0] for line in check(sweep, "val/loss > 9 * baseline")] == ["lr=0.05"]
    assert "1 runs ended with a val/loss that is no number, among them lr=0.05 seed=2" in " ".join(
        compare(load_runs(sweep), metric="val/loss").notes
    )


def test_a_check_against_nothing_is_refused(sweep: Path) -> None:
    with pytest.raises(ValueError, match="needs a run besides the baseline small"):
        check(sweep / "0.1-2", "val/loss > baseline")
    assert check(sweep / "0.1-2", "val/loss > 3") == ["small: val/loss 3.02"]


def test_tables_are_written_as_their_name_says(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = load_runs(sweep)
    write_table(frames.runs, tmp_path / "runs.csv")
    back = pd.read_csv(tmp_path / "runs.csv", index_col="run")
    assert back["best val/loss"].tolist() == pytest.approx(frames.runs["best"]["val/loss"].tolist())
    assert back["optim.betas"].iloc[0] == "0.9,0.95"
    with pytest.raises(ValueError, match=r"runs\.xlsx must end in \.csv or \.parquet"):
        write_table(frames.runs, tmp_path / "runs.xlsx")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ValueError, match="needs pyarrow: python -m pip install pyarrow"):
        write_table(frames.runs, tmp_path / "runs.parquet")


def test_parquet_comes_back_as_it_was(sweep: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow writes Parquet and is optional")
    frames = load_runs(sweep)
    write_table(frames.runs, tmp_path / "runs.parquet")
    assert (
        pd.read_parquet(tmp_path / "runs.parquet")["best val/loss"].tolist() == frames.runs["best"]["val/loss"].tolist()
    )
