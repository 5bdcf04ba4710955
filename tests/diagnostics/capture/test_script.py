"""A script runs as Python would run it, and its end is told in one line."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from diagnostics.capture.recording import Ending
from diagnostics.capture.script import INTERRUPTED, EnoughError, run_script, run_to_its_end

Write = Callable[[str], Path]
ENOUGH = "from diagnostics.capture.script import EnoughError\n"


@pytest.fixture(autouse=True)
def same_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script stays ``__main__``; not beyond its test."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Code -> the file train.py that holds it."""

    def written(code: str) -> Path:
        script = tmp_path / "train.py"
        script.write_text(dedent(code))
        return script

    return written


def main_of(script: Path, *arguments: str) -> dict[str, object]:
    """What a script that ends by itself leaves behind."""
    assert run_script(script, arguments) == ("ended", "")
    return vars(sys.modules["__main__"])


def test_a_script_is_main_and_sees_its_command_line_its_file_and_its_folder(write: Write) -> None:
    script = write("import sys\nseen = __name__, __file__, sys.argv[:], sys.path[0]")
    expected = ("__main__", str(script), [str(script), "--lr", "0.1"], str(script.parent))
    assert main_of(script, "--lr", "0.1")["seen"] == expected


def test_a_module_beside_the_script_is_imported(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    script = write("from beside_the_script import WIDTH")
    (script.parent / "beside_the_script.py").write_text("WIDTH = 11")
    try:
        assert main_of(script)["WIDTH"] == 11
    finally:
        sys.modules.pop("beside_the_script", None)


def test_the_command_line_and_the_path_are_the_same_objects_with_the_same_contents_afterwards(write: Write) -> None:
    argv, path, contents = sys.argv, sys.path, (list(sys.argv), list(sys.path))
    run_script(write("import sys\nsys.argv.append('more')\nsys.path.insert(0, 'elsewhere')\nraise ValueError"), ["x"])
    assert sys.argv is argv
    assert sys.path is path
    assert (sys.argv, sys.path) == contents


def test_what_a_script_defines_can_be_pickled_by_name_afterwards(write: Write) -> None:
    import pickle

    made = main_of(write("class Sample: pass\nsample = Sample()"))["sample"]
    assert type(pickle.loads(pickle.dumps(made))) is type(made)


ENDINGS: dict[str, tuple[Ending, str]] = {
    "pass": ("ended", ""),
    "import sys; sys.exit()": ("ended", ""),
    "raise SystemExit(0)": ("ended", ""),
    "raise SystemExit(3)": ("raised", "SystemExit: 3"),
    "raise SystemExit('no data')": ("raised", "SystemExit: no data"),
    "raise KeyboardInterrupt": ("interrupted", ""),
    ENOUGH + "raise EnoughError": ("enough", ""),
    "\nraise ValueError('bad\\nvery bad')": ("raised", "ValueError: bad (train.py, line 2)"),
    "raise ValueError": ("raised", "ValueError:  (train.py, line 1)"),
    "def f():\n    1 / 0\n\nf()": ("raised", "ZeroDivisionError: division by zero (train.py, line 2)"),
    "import json\njson.loads('')": (
        "raised",
        "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (train.py, line 2)",
    ),
}


@pytest.mark.parametrize("code", ENDINGS)
def test_an_ending_is_told_with_the_last_line_of_the_script_s_own(code: str, write: Write) -> None:
    assert run_script(write(code), []) == ENDINGS[code]


def test_enough_passes_by_except_exception_and_runs_finally(write: Write) -> None:
    script = write(
        ENOUGH
        + dedent("""
        caught, closed = False, False
        try:
            raise EnoughError
        except Exception:
            caught = True
        finally:
            closed = True
        """)
    )
    assert run_script(script, []) == ("enough", "")
    main = vars(sys.modules["__main__"])
    assert (main["caught"], main["closed"]) == (False, True)


def test_enough_that_a_bare_except_swallows_lets_the_script_go_on(write: Write) -> None:
    assert main_of(write(ENOUGH + "try:\n    raise EnoughError\nexcept:\n    went_on = True"))["went_on"] is True


BROKEN = {
    "x = (1,": r"train\.py is no Python: .* \(line 1\)",
    "x = 1\n  y = 2": r"train\.py is no Python: unexpected indent \(line 2\)",
    "x = 1\0": r"train\.py is no Python: .*null bytes",
}


@pytest.mark.parametrize("run", [run_script, run_to_its_end])
@pytest.mark.parametrize("code", BROKEN)
def test_what_is_no_python_is_refused_with_its_line(code: str, run: Callable[..., object], write: Write) -> None:
    with pytest.raises(ValueError, match=BROKEN[code]):
        run(write(code), [])


def test_a_script_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.py cannot be read: No such file"):
        run_script(tmp_path / "absent.py", [])


CODES = {
    "pass": 0,
    "raise SystemExit": 0,
    "raise SystemExit(7)": 7,
    "raise SystemExit('no data')": 1,
    "raise ValueError('bad')": 1,
    "raise KeyboardInterrupt": INTERRUPTED,
}


@pytest.mark.parametrize("code", CODES)
def test_a_script_that_runs_to_its_end_has_the_exit_code_that_python_gives(code: str, write: Write) -> None:
    assert run_to_its_end(write(code), []) == CODES[code]


def test_an_error_is_printed_from_the_script_s_first_frame_on(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    run_to_its_end(write("def f():\n    raise ValueError('bad')\n\nf()"), [])
    said = capsys.readouterr().err
    assert said.count('File "') == 2
    assert said.endswith("ValueError: bad\n")


def test_a_message_in_system_exit_goes_to_the_error_stream(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    run_to_its_end(write("raise SystemExit('no data')"), [])
    assert capsys.readouterr() == ("", "no data\n")


def test_enough_is_no_exception_that_scripts_catch() -> None:
    assert not issubclass(EnoughError, Exception)
