"""The side that waits for a script: where it runs, and what is said about its files and its end."""

import signal
import subprocess
from pathlib import Path
from unittest.mock import call, create_autospec

import pytest

from diagnostics.capture.files import Written
from experiments.observed import Order
from experiments.scripts import end_of, in_scratch, in_words, interrupts_left_to, last_words


def test_a_script_below_the_folder_runs_from_the_copy(tmp_path: Path) -> None:
    script = tmp_path / "place" / "code" / "train.py"
    script.parent.mkdir(parents=True)
    script.write_text("print('hello')")
    order = Order(script=str(script), arguments=(), folder=str(tmp_path / "out"), place=str(tmp_path / "place"))
    copy = in_scratch(order)
    assert Path(copy.place) == tmp_path / "out" / "scratch"
    assert Path(copy.script) == tmp_path / "out" / "scratch" / "code" / "train.py"
    assert Path(copy.script).read_text() == "print('hello')"
    assert not copy.journal


def test_a_script_elsewhere_stays_where_it_is_and_its_folder_is_watched(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    script = tmp_path / "elsewhere.py"
    script.write_text("")
    order = Order(script=str(script), arguments=(), folder=str(tmp_path / "out"), place=str(tmp_path / "place"))
    copy = in_scratch(order)
    assert (copy.script, copy.journal) == (str(script), True)


def test_what_was_written_is_said_by_kind(tmp_path: Path) -> None:
    written = [Written(path=Path(f"{name}.pt"), what="new", now=None, journaled=True) for name in "abcdef"]
    seen = Written(path=Path("/data/table.h5"), what="changed", now=None, journaled=False)
    assert list(in_words([*written, seen], tmp_path)) == [
        f"files      the script wrote a.pt, b.pt, c.pt, d.pt and 2 more; they lie in {tmp_path}, yours are as before",
        "files      changed in a way that could not be kept: /data/table.h5",
    ]


def test_nothing_is_said_of_a_script_that_wrote_nothing(tmp_path: Path) -> None:
    assert list(in_words([], tmp_path)) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [(-9, "was killed by SIGKILL"), (3, "ended its process (exit code 3)"), (-11, "was killed by SIGSEGV")],
)
def test_the_end_of_a_process_in_words(code: int, said: str) -> None:
    assert end_of(code) == said


def test_its_last_words_are_the_last_line_that_says_something(tmp_path: Path) -> None:
    assert last_words(tmp_path) == ""
    (tmp_path / "output.txt").write_text("epoch 1\n\n")
    assert last_words(tmp_path) == ": epoch 1"
    (tmp_path / "examination.log").write_bytes(b"Traceback\nMemoryError: \xff\n  \n")
    assert last_words(tmp_path) == ": MemoryError: �"


def test_two_interrupts_are_the_scripts_and_the_third_is_ours() -> None:
    process, before = create_autospec(subprocess.Popen, instance=True), signal.getsignal(signal.SIGINT)
    with interrupts_left_to(process):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert process.send_signal.call_args_list == [call(signal.SIGINT)] * 2
    assert signal.getsignal(signal.SIGINT) is before
