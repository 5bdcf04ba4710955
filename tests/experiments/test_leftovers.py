"""What a killed diagnosis left is put back by the next one, unless somebody is still at work there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diagnostics.capture.files import Journal
from experiments.leftovers import is_held, make_room, put_back_leftovers

pytestmark = pytest.mark.timeout(60)

HOLDS = (
    "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); input()"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script's folder with a file of the user's."""
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "best.pt").write_text("three weeks")
    monkeypatch.chdir(folder)
    return folder


def left_behind(place: Path, results: Path) -> Path:
    """What lies there when a diagnosis is killed after its script wrote over a file; the folder of the order."""
    work = results / "script"
    work.mkdir(parents=True)
    (work / "order.json").write_text(json.dumps({}))
    with Journal(work / "kept", watched=(place,), ignored=(results,)):
        (place / "best.pt").write_text("five steps")
    return work


@pytest.mark.parametrize("beside", ["runs/old", "../results/old", "../results/new"])
def test_files_are_put_back_from_wherever_they_are_kept(place: Path, beside: str) -> None:
    work = left_behind(place, place / beside)
    said: list[str] = []
    put_back_leftovers((place / "../results/new").resolve(), said.append)
    assert (place / "best.pt").read_text() == "three weeks"
    assert (work / "written" / "best.pt").read_text() == "five steps"
    assert said == [f"files     yours are as they were before {Path(beside).name}, which was killed"]


def test_once_is_enough(place: Path) -> None:
    left_behind(place, place / "runs" / "old")
    put_back_leftovers(place / "runs" / "new", lambda line: None)
    (place / "best.pt").write_text("four weeks")
    said: list[str] = []
    put_back_leftovers(place / "runs" / "new", said.append)
    assert ((place / "best.pt").read_text(), said) == ("four weeks", [])


def test_what_a_living_process_holds_is_left_alone(place: Path) -> None:
    work = left_behind(place, place / "runs" / "old")
    order = work / "order.json"
    command = [sys.executable, "-c", HOLDS, str(order)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        put_back_leftovers(place / "runs" / "new", lambda line: None)
        assert (place / "best.pt").read_text() == "five steps"
        with pytest.raises(ValueError, match="belongs to a diagnosis that is still going on; choose another folder"):
            make_room(place / "runs" / "old")
        holder.communicate("\n")
    assert not is_held(order)


def test_what_came_to_nothing_makes_room(tmp_path: Path) -> None:
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "order.json").write_text("{}")
    make_room(tmp_path)
    assert not (tmp_path / "script").exists()


@pytest.mark.parametrize("kept", ["script/written", "scratch"])
def test_what_a_script_wrote_is_not_removed(tmp_path: Path, kept: str) -> None:
    (tmp_path / kept).mkdir(parents=True)
    with pytest.raises(ValueError, match="already holds what a script wrote; choose another folder with --out"):
        make_room(tmp_path)
    assert (tmp_path / kept).exists()
