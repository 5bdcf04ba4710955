"""A script's own files are afterwards what they were before: content, mode and time of the last change."""

import csv
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from diagnostics.capture.files import (
    Journal,
    Restored,
    Territory,
    Written,
    changes,
    restore,
    scratch_copy,
    snapshot,
)

ROOT = Path(__file__).parents[3]


def state(folder: Path) -> Mapping[str, tuple[object, ...]]:
    """What a user can see of everything below a folder, and of the folder."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        now = path.lstat()
        held = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        time_ns = None if path.is_symlink() else now.st_mtime_ns
        seen[str(path.relative_to(folder))] = (stat.S_IFMT(now.st_mode), stat.S_IMODE(now.st_mode), time_ns, held)
    return seen


class Place:
    """A script's folder and a folder of the diagnosis, which keeps what the script writes."""

    def __init__(self, parent: Path) -> None:
        self.work, self.diagnosis = parent / "work", parent / "diagnosis"
        self.keep, self.written = self.diagnosis / "keep", self.diagnosis / "written"
        (self.work / "runs" / "old").mkdir(parents=True)
        self.file("model.pt", b"weights of three days")
        self.file("runs/log.csv", b"step,loss\n")
        self.file("runs/old/state", b"old")
        self.before = state(self.work)

    def file(self, name: str, content: bytes) -> Path:
        path = self.work / name
        path.write_bytes(content)
        path.chmod(0o640)
        os.utime(path, ns=(10**18, 10**18 + 7))
        return path

    def journal(self) -> Journal:
        return Journal(self.keep, watched=(self.work,), ignored=(self.diagnosis,))

    def restored(self) -> Restored:
        return restore(self.keep, self.written)

    def told(self, restored: Restored) -> dict[str, tuple[str, str | None]]:
        """By path: what happened, and what the script left."""
        return {
            str(each.path.relative_to(self.work)): (each.what, each.now and each.now.read_bytes().decode("latin1"))
            for each in restored.written
        }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path)
    monkeypatch.chdir(place.work)
    return place


def write_new() -> None:
    Path("new.txt").write_text("n")


def write_over() -> None:
    with open("model.pt", "w") as file:
        file.write("n")


def append() -> None:
    with open("runs/log.csv", "a", newline="") as file:
        csv.writer(file).writerow([1, 2.5])


def edit_in_place() -> None:
    with open("model.pt", "r+b") as file:
        file.write(b"n")


def open_exclusively() -> None:
    for name in ("model.pt", "fresh"):
        with suppress(FileExistsError), open(name, "x"):
            pass


def open_by_descriptor() -> None:
    os.close(os.open("model.pt", os.O_WRONLY | os.O_TRUNC))


def truncate() -> None:
    os.truncate("model.pt", 3)


def replace_by_renaming() -> None:
    Path("model.tmp").write_text("n")
    os.replace("model.tmp", "model.pt")


def rename_then_write_both() -> None:
    os.rename("model.pt", "model_old.pt")
    Path("model.pt").write_text("n")
    with open("model_old.pt", "r+b") as file:
        file.write(b"n")


def swap() -> None:
    os.rename("model.pt", "t")
    os.rename("runs/log.csv", "model.pt")
    os.rename("t", "runs/log.csv")


def rotate_checkpoints() -> None:
    os.makedirs("runs/checkpoint-2")
    torch.save({"step": 2}, "runs/checkpoint-2/state")
    shutil.rmtree("runs/old")
    os.makedirs("runs/old", exist_ok=True)
    Path("runs/old/state").write_text("n")


def rename_a_folder() -> None:
    os.rename("runs", "runs_before")
    with open("runs_before/old/state", "a") as file:
        file.write("n")
    os.makedirs("runs/old")
    torch.save({}, "runs/old/state")


def remove_the_tree() -> None:
    shutil.rmtree("runs")
    Path("runs").write_text("a file now")


def file_becomes_folder() -> None:
    os.remove("model.pt")
    os.makedirs("model.pt/deep/empty")
    Path("model.pt/deep/shard").write_text("n")


def through_a_link() -> None:
    os.symlink("model.pt", "last.pt")
    Path("last.pt").write_text("n")
    os.remove("last.pt")
    os.symlink("runs/log.csv", "last.pt")
    Path("last.pt").write_text("n")


def through_a_second_name() -> None:
    os.link("model.pt", "same.pt")
    with open("same.pt", "r+b") as file:
        file.write(b"n")


def give_properties() -> None:
    os.chmod("model.pt", 0o600)
    os.utime("runs/log.csv", (1, 1))
    Path("runs").chmod(0o700)
    Path("runs/old/state").touch()


def save_with_torch() -> None:
    torch.save({"weight": torch.arange(5)}, "model.pt")
    torch.save(torch.arange(7), Path("new.pt"))


def save_with_safetensors() -> None:
    save_file({"weight": torch.arange(5)}, "model.pt")


def save_with_numpy() -> None:
    with open("model.pt", "wb") as file:
        np.save(file, np.arange(5))
    np.savez("arrays.npz", a=np.arange(3))
    np.arange(3).tofile("runs/log.csv")
    np.memmap("runs/old/state", dtype=np.uint8, mode="r+")[0] = 7


def fill_a_database() -> None:
    with sqlite3.connect("study.db") as database:
        database.execute("create table trial (loss real)")
    database.close()


def make_only_folders() -> None:
    os.makedirs("a/b/c")
    Path("runs/new").mkdir()
    os.rmdir("runs/new")


def read_only() -> None:
    Path("model.pt").read_bytes()
    os.listdir("runs")


ACTIONS: tuple[Callable[[], None], ...] = (
    write_new, write_over, append, edit_in_place, open_exclusively, open_by_descriptor, truncate, replace_by_renaming,
    rename_then_write_both, swap, rotate_checkpoints, rename_a_folder, remove_the_tree, file_becomes_folder,
    through_a_link, through_a_second_name, give_properties, save_with_torch, save_with_safetensors, save_with_numpy,
    fill_a_database, make_only_folders, read_only,
)  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_everything_is_as_before(place: Place, action: Callable[[], None]) -> None:
    with place.journal():
        action()
    restored = place.restored()
    assert state(place.work) == place.before
    assert all(each.journaled for each in restored.written)
    assert restored.complete


@pytest.mark.parametrize("action", ACTIONS)
def test_the_script_sees_what_it_would_see_without_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]
) -> None:
    seen = []
    for name in ("observed", "alone"):
        place = Place(tmp_path / name)
        monkeypatch.chdir(place.work)
        if name == "observed":
            with place.journal():
                action()
        else:
            action()
        seen.append({path: (kind, mode, held) for path, (kind, mode, _, held) in state(place.work).items()})
    assert _without_databases(seen[0]) == _without_databases(seen[1])


def _without_databases(seen: Mapping[str, object]) -> dict[str, object]:
    return {path: held for path, held in seen.items() if not path.endswith((".db", ".npz"))}  # hold times


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (write_new, {"new.txt": ("new", "n")}),
        (write_over, {"model.pt": ("changed", "n")}),
        (append, {"runs/log.csv": ("changed", "step,loss\n1,2.5\r\n")}),
        (edit_in_place, {"model.pt": ("changed", "neights of three days")}),
        (replace_by_renaming, {"model.pt": ("changed", "n")}),
        (rename_then_write_both, {"model.pt": ("changed", "n"), "model_old.pt": ("new", "neights of three days")}),
        (
            remove_the_tree,
            {"runs": ("new", "a file now"), "runs/log.csv": ("removed", None), "runs/old/state": ("removed", None)},
        ),
        (file_becomes_folder, {"model.pt": ("removed", None), "model.pt/deep/shard": ("new", "n")}),
        (through_a_link, {"last.pt": ("new", "n"), "model.pt": ("changed", "n"), "runs/log.csv": ("changed", "n")}),
        (give_properties, {}),
        (make_only_folders, {}),
        (read_only, {}),
    ],
)  # fmt: skip
def test_it_is_told_what_the_script_did(
    place: Place, action: Callable[[], None], expected: dict[str, tuple[str, str | None]]
) -> None:
    with place.journal():
        action()
    restored = place.restored()
    # a link that was set aside may point to nothing from there
    assert place.told(Restored(tuple(e for e in restored.written if not (e.now and e.now.is_symlink())), True)) == {
        path: what for path, what in expected.items() if path != "last.pt"
    }
    assert {str(each.path.relative_to(place.work)) for each in restored.written} == expected.keys()


def test_what_the_script_wrote_lies_aside_in_the_same_layout(place: Place) -> None:
    with place.journal():
        rotate_checkpoints()
    place.restored()
    assert torch.load(place.written / "runs/checkpoint-2/state") == {"step": 2}
    assert (place.written / "runs/old/state").read_text() == "n"


def test_files_elsewhere_are_put_back_too(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "best.pt").write_text("best")
    before = state(elsewhere)
    with Journal(place.keep, watched=(place.work, elsewhere)):
        torch.save({}, elsewhere / "best.pt")
    (told,) = place.restored().written
    assert state(elsewhere) == before
    assert told.now == place.written / "elsewhere" / elsewhere.relative_to("/") / "best.pt"


def test_what_is_ignored_stays_as_the_script_left_it(place: Place) -> None:
    wandb = place.work / "wandb"
    with Journal(place.keep, watched=(place.work,), ignored=(wandb,)):
        (wandb / "run").mkdir(parents=True)
        (wandb / "run" / "log").write_text("theirs")
        write_over()
    assert place.told(place.restored()) == {"model.pt": ("changed", "n")}
    assert (wandb / "run" / "log").read_text() == "theirs"


def test_an_exception_inside_passes_through(place: Place) -> None:
    def raise_in_step_3() -> None:
        with place.journal():
            write_over()
            raise RuntimeError("step 3")

    with pytest.raises(RuntimeError, match="step 3"):
        raise_in_step_3()
    place.restored()
    assert state(place.work) == place.before


def test_restoring_twice_changes_nothing_and_tells_the_same(place: Place) -> None:
    with place.journal():
        rotate_checkpoints()
        append()
    first = place.restored()
    (place.work / "model.pt").write_text("the user's own work, later")
    assert place.restored() == first
    assert (place.work / "model.pt").read_text() == "the user's own work, later"


def test_restored_files_share_nothing_with_what_the_script_left(place: Place) -> None:
    with place.journal():
        swap()
    place.restored()
    assert [path.stat().st_nlink for path in place.work.rglob("*") if path.is_file()] == [1, 1, 1]


def test_a_second_name_of_the_users_own_is_untouched(place: Place) -> None:
    os.link("model.pt", "backup.pt")
    before = state(place.work)
    with place.journal():
        edit_in_place()
        write_over()
        assert Path("backup.pt").read_bytes() == b"weights of three days"
    place.restored()
    assert state(place.work) == before
    assert os.path.samefile("model.pt", "backup.pt")


def test_forked_workers_share_the_journal(place: Place) -> None:
    def worker(number: int) -> None:
        with open("shared.log", "a") as file:
            file.write(f"{number}\n")
        edit_in_place()
        Path(f"runs/shard{number}").write_text("n")

    with place.journal():
        for number in range(3):
            _in_a_fork(lambda number=number: worker(number))  # type: ignore[misc]
        assert Path("shared.log").read_text() == "0\n1\n2\n"
        append()
    told = place.told(place.restored())
    assert state(place.work) == place.before
    assert told.keys() == {"shared.log", "model.pt", "runs/log.csv", "runs/shard0", "runs/shard1", "runs/shard2"}


def _in_a_fork(action: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


BUSY_SCRIPT = """
import os, shutil, sys, itertools, pathlib
from diagnostics.capture.files import Journal
keep, work = map(pathlib.Path, sys.argv[1:])
os.chdir(work)
with Journal(keep, watched=(work,)):
    print("on", flush=True)
    for step in itertools.count():
        pathlib.Path("model.tmp").write_bytes(b"n" * 100_000)
        os.replace("model.tmp", "model.pt")
        os.makedirs(f"runs/checkpoint-{step}")
        with open(f"runs/checkpoint-{step}/state", "w") as file:
            file.write("n" * step)
        with open("runs/log.csv", "a") as file:
            file.write("n")
        if step == 2: shutil.rmtree("runs/old")
        if step > 2: shutil.rmtree(f"runs/checkpoint-{step - 2}")
"""


@pytest.mark.parametrize("milliseconds", [0, 3, 7, 31])
def test_a_script_killed_in_the_middle_leaves_everything_as_before(place: Place, milliseconds: int) -> None:
    command = [sys.executable, "-c", BUSY_SCRIPT, str(place.keep), str(place.work)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(milliseconds / 1000)
        child.send_signal(signal.SIGKILL)
    place.restored()
    assert state(place.work) == place.before


def test_half_a_line_spoils_no_other(place: Place) -> None:
    with place.journal():
        write_over()
        with open(place.keep / "journal.jsonl", "a") as file:
            file.write('{"path": "' + str(place.work))
        append()
    place.restored()
    assert state(place.work) == place.before


@pytest.mark.parametrize("calls", range(1, 9))
def test_a_restoration_that_was_interrupted_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    with place.journal():
        rotate_checkpoints()
        swap()
        write_new()
    with monkeypatch.context() as patch, _failing_at(patch, calls):
        place.restored()
    place.restored()
    assert state(place.work) == place.before


class Killed(BaseException):
    pass


@contextmanager
def _failing_at(patch: pytest.MonkeyPatch, calls: int) -> Iterator[None]:
    """The process ends at one of the moves."""
    left, replace = [calls], os.replace

    def replaced(source: str, target: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        replace(source, target)

    patch.setattr(os, "replace", replaced)
    with suppress(Killed):
        yield


@pytest.mark.parametrize("action", ACTIONS)
def test_where_files_cannot_be_linked_they_are_copied(
    place: Place, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]
) -> None:
    def refuse(*names: object, **options: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    with place.journal(), monkeypatch.context() as patch:
        if action is not through_a_second_name:
            patch.setattr(os, "link", refuse)
        action()
    place.restored()
    assert state(place.work) == place.before


OTHER = Path("/dev/shm")


@pytest.mark.skipif(
    not OTHER.is_dir() or OTHER.stat().st_dev == ROOT.stat().st_dev, reason="this machine has no second file system"
)
@pytest.mark.parametrize(
    "action", [write_over, append, rotate_checkpoints, swap, through_a_second_name, through_a_link]
)
def test_a_journal_on_another_file_system_does_it_too(place: Place, action: Callable[[], None]) -> None:
    with tempfile.TemporaryDirectory(dir=OTHER) as folder:
        place.keep, place.written = Path(folder, "keep"), Path(folder, "written")
        with place.journal():
            action()
        place.restored()
        assert state(place.work) == place.before
        assert any(path.is_file() for path in place.written.rglob("*"))


def test_a_file_that_cannot_be_kept_cannot_be_changed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*names: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with place.journal(), pytest.raises(OSError, match=r"may not change .*model\.pt: its 21 bytes cannot be kept"):
        write_over()
    assert Path("model.pt").read_bytes() == b"weights of three days"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_forbids_new_files_gets_its_file_back(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    for folder in tmp_path.parents[:2]:
        os.chmod(folder, 0o755)
    place = Place(tmp_path)
    for path in (place.work, place.work / "model.pt"):
        os.chown(path, 65534, 65534)
    place.work.chmod(0o500)
    before = state(place.work)

    def as_nobody() -> None:
        os.setuid(65534)
        os.chdir(place.work)
        with place.journal():
            edit_in_place()
            with suppress(PermissionError):
                write_new()
        assert Path("model.pt").read_bytes() == b"neights of three days"
        assert place.told(place.restored()) == {"model.pt": ("changed", "neights of three days")}

    _in_a_fork(as_nobody)
    assert state(place.work) == before


def test_a_writer_that_nobody_sees_is_told_of(place: Place) -> None:
    with place.journal():
        subprocess.run(["sh", "-c", "echo x > model.pt; echo x > new; rm runs/log.csv"], check=True)
    assert place.restored().written == (
        Written(place.work / "model.pt", "changed", place.work / "model.pt", journaled=False),
        Written(place.work / "new", "new", place.work / "new", journaled=False),
        Written(place.work / "runs/log.csv", "removed", None, journaled=False),
    )


def test_nothing_is_kept_after_the_end(place: Place) -> None:
    with place.journal():
        pass
    write_over()
    torch.save({}, "model.pt")
    assert (place.keep / "journal.jsonl").read_text() == ""


def test_one_journal_at_a_time_and_one_folder_each(place: Place, tmp_path: Path) -> None:
    second = Journal(tmp_path / "other", watched=())
    with place.journal(), pytest.raises(ValueError, match="a journal is on already"):
        second.__enter__()
    with pytest.raises(ValueError, match="holds a journal already"):
        place.journal().__enter__()
    with pytest.raises(ValueError, match="holds no journal"):
        restore(tmp_path / "nowhere", place.written)


def _write(name: str, mode: str, text: str) -> None:
    with open(name, mode) as file:
        file.write(text)


FILES = ("model.pt", "runs", "runs/log.csv", "runs/old", "runs/old/state", "a", "a/b", "runs/c", "link")
NAMES = st.sampled_from(FILES)
OPERATIONS: dict[str, Callable[[str, str], object]] = {
    "write": lambda one, other: Path(one).write_text(other),
    "append": lambda one, other: _write(one, "a", other),
    "edit": lambda one, other: _write(one, "r+", other),
    "truncate": lambda one, other: os.truncate(one, 2),
    "remove": lambda one, other: os.remove(one),
    "remove tree": lambda one, other: shutil.rmtree(one),
    "make folder": lambda one, other: os.makedirs(one),
    "remove folder": lambda one, other: os.rmdir(one),
    "rename": lambda one, other: os.rename(one, other),
    "move": lambda one, other: shutil.move(one, other),
    "copy": lambda one, other: shutil.copy2(one, other),
    "copy tree": lambda one, other: shutil.copytree(one, other, dirs_exist_ok=True),
    "link": lambda one, other: os.symlink(other, one),
    "second name": lambda one, other: os.link(one, other),
    "mode": lambda one, other: os.chmod(one, 0o711),
    "time": lambda one, other: os.utime(one, (1, 1)),
    "torch": lambda one, other: torch.save(other, one),
}
STEPS = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), NAMES, NAMES, st.booleans()), max_size=11)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_of_operations_is_undone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str, str, bool]]
) -> None:
    place = Place(tmp_path_factory.mktemp("any"))
    monkeypatch.chdir(place.work)
    with place.journal():
        for name, one, other, forked in steps:
            with suppress(OSError, shutil.Error, RuntimeError):
                run = lambda name=name, one=one, other=other: OPERATIONS[name](one, other)  # noqa: E731
                _quietly_in_a_fork(run) if forked else run()
    restored = place.restored()
    assert state(place.work) == place.before
    assert all(each.journaled for each in restored.written)


def _quietly_in_a_fork(action: Callable[[], object]) -> None:
    def quiet() -> None:
        with suppress(OSError, shutil.Error, RuntimeError):
            action()

    _in_a_fork(quiet)


def test_a_scratch_copy_holds_what_a_script_needs(place: Place, tmp_path: Path) -> None:
    for name in (".git", "__pycache__", "wandb", "node_modules", "venv"):
        (place.work / name).mkdir()
        (place.work / name / "pyvenv.cfg").write_text("")
    os.symlink(tmp_path, "out")
    os.symlink(place.work / "model.pt", "within")
    scratch = scratch_copy(place.work, place.work / "scratch", limit_bytes=1000)
    copied = {str(path.relative_to(scratch)) for path in scratch.rglob("*") if "out" not in path.parts}
    assert copied == {"model.pt", "runs", "runs/log.csv", "runs/old", "runs/old/state", "within"}
    assert os.readlink(scratch / "out") == str(tmp_path)
    assert os.path.samefile(scratch / "within", scratch / "model.pt")
    assert (scratch / "model.pt").stat().st_mtime_ns == (place.work / "model.pt").stat().st_mtime_ns


def test_a_scratch_copy_that_is_too_large_is_refused_before_anything_is_copied(place: Place, tmp_path: Path) -> None:
    size = len("weights of three days" + "step,loss\n" + "old")
    with pytest.raises(ValueError, match=rf"\({size} bytes\) must not .* \(33 bytes\); the largest is model\.pt"):
        scratch_copy(place.work, tmp_path / "scratch", limit_bytes=33)
    assert not (tmp_path / "scratch").exists()
    assert scratch_copy(place.work, tmp_path / "scratch", limit_bytes=size) == tmp_path / "scratch"
    with pytest.raises(ValueError, match="must be empty"):
        scratch_copy(place.work, tmp_path / "scratch", limit_bytes=size)


def test_changes_between_snapshots_are_told_with_what_a_limit_hides_left_out(place: Place) -> None:
    territory = Territory((place.work,), ())
    before, little = snapshot(territory), snapshot(territory, limit=2)
    write_over()
    write_new()
    os.remove("runs/old/state")
    told = {(str(each.path.relative_to(place.work)), each.what) for each in changes(before, snapshot(territory))}
    assert told == {("model.pt", "changed"), ("new.txt", "new"), ("runs/old/state", "removed")}
    assert not little.complete
    assert [each.what for each in changes(little, snapshot(territory))] == ["changed"]
