"""The command as a whole: what it loads, how it lists and refuses, and how it ends."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.commands import COMMANDS, app

UNWANTED = ("torch", "numpy", "wandb", "pandas", "matplotlib", "rich", "transformers", "regex")
COMMAND = [sys.executable, "-c", "from experiments.commands import main; main()"]
ASK_FOR_HELP = f"""
import sys
from experiments.commands import COMMANDS, app
for name in ([], *([command.__name__] for command in COMMANDS)):
    app([*name, "--help"], standalone_mode=False)
print("loaded:", *(name for name in {UNWANTED!r} if name in sys.modules))
"""


def names_of_commands() -> list[str]:
    return [command.__name__ for command in COMMANDS]


def test_help_of_every_command_loads_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", ASK_FOR_HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
    assert all(
        f"Usage: -c {name}" in done.stdout or f" {name} [OPTIONS]" in done.stdout for name in names_of_commands()
    )


def test_the_root_lists_every_command_in_order_and_each_on_one_whole_line(run) -> None:
    listed = run("--help").out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == names_of_commands()
    assert names_of_commands()[0] == "diagnose"
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("name", names_of_commands())
def test_every_option_with_a_default_tells_it(name, run) -> None:
    text = " ".join(run(name, "--help").out.split())
    command = next(each for each in app.registered_commands if each.callback.__name__ == name)
    defaults = command.callback.__defaults__ or ()
    told = [value for value in defaults if isinstance(value, int | float | str) and not isinstance(value, bool)]
    assert all(f"[default: {value}" in text for value in told)


def test_the_version_is_the_installed_one(run) -> None:
    from importlib.metadata import version

    assert run("--version").out == f"unplateau {version('unplateau')}\n"


def test_an_unknown_command_is_refused_with_the_nearest(run) -> None:
    ended = run("explian")
    assert ended.code == 2
    assert "explain" in ended.err


def test_an_unknown_recipe_is_refused_with_the_nearest(run) -> None:
    ended = run("train", "--recipe", "smal")
    assert (ended.code, ended.err) == (2, "unplateau: no recipe 'smal'; did you mean 'small'?\n")


def test_an_unknown_field_is_refused_with_the_nearest(run) -> None:
    ended = run("overfit", "--set", "optim.lrr=1")
    assert (ended.code, ended.err) == (2, "unplateau: OptimConfig has no field 'lrr'; did you mean 'lr'?\n")


def test_a_setting_without_a_value_is_refused(run) -> None:
    ended = run("tying", "--set", "optim.lr")
    assert ended.code == 2
    assert "--set 'optim.lr' has no value; write NAME=VALUE" in ended.err


def test_a_width_that_the_heads_do_not_divide_is_refused(run) -> None:
    ended = run("gradients", "--set", "model.d_model=10")
    assert (ended.code, ended.err) == (2, "unplateau: d_model (10) must be a multiple of num_heads (4)\n")


@pytest.mark.parametrize("command", ["train", "overfit", "gradients", "tying"])
def test_a_missing_corpus_is_one_line(command, run, small, tmp_path) -> None:
    ended = run(command, *small, f"--set=corpus.source={tmp_path / 'none.txt'}", "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.startswith(f"unplateau: {tmp_path / 'none.txt'} does not exist")
    assert ended.err.count("\n") == 1


def test_an_empty_corpus_is_one_line(run, small, tmp_path) -> None:
    (tmp_path / "empty.txt").write_text("")
    ended = run("train", *small, f"--set=corpus.source={tmp_path / 'empty.txt'}", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "empty.txt is empty" in ended.err


def test_a_corpus_shorter_than_a_context_is_one_line(run, small, tmp_path) -> None:
    ended = run("overfit", *small, "--set=data.context=9000", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "too short for one window of data.context + 1 (9001)" in ended.err


@pytest.mark.parametrize("command", ["train", "overfit", "gradients", "tying"])
def test_a_folder_that_cannot_be_written_is_one_line(command, run, small, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    ended = run(command, *small, "--out", tmp_path / "file" / "below")
    assert ended.code == 2
    assert "cannot be written: Not a directory" in ended.err.splitlines()[-1]


def test_a_full_disk_is_one_line(run, small, tmp_path, monkeypatch) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    ended = run("train", *small, "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.endswith("config.json cannot be written: No space left on device\n")


def test_a_full_disk_without_a_name_is_one_line(run, text_file, tmp_path, monkeypatch) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    ended = run("tokenize", text_file, "--vocab-size", 260, "--out", tmp_path / "out")
    assert (ended.code, ended.err) == (2, "unplateau: the disk: No space left on device\n")


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    with subprocess.Popen([*COMMAND, "faults"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_ctrl_c_keeps_the_record_and_exits_with_130(small, tmp_path) -> None:
    folder = tmp_path / "run"
    long = [*COMMAND, "train", *small, "--set=train.steps=1000000", "--set=train.log_every=1", "--out", str(folder)]
    with subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for(folder / "metrics.jsonl", process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        f"next        unplateau train --resume {folder}",
        "unplateau: interrupted; what was recorded so far stays",
    ]
    assert json.loads((folder / "state.json").read_text()) == {"state": "interrupted"}
    assert (folder / "metrics.jsonl").read_text().count("train/loss") >= 1


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Until the file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.05)
