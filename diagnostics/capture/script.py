"""Runs a script as ``python script.py arguments`` does: as ``__main__``, its folder first on the path."""

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from diagnostics.capture.recording import Ending


class EnoughError(BaseException):
    """Ends a script that has been seen long enough; no ``except Exception`` of its own catches it."""


def run_script(script: Path, arguments: Sequence[str]) -> tuple[Ending, str]:
    """How the script ended, and the error that it raised in one line, with the place ("" where it raised none).

    Args:
        script: a Python file; it becomes ``__main__`` and stays that, so that what it defined can be found by name.
        arguments: its command line.

    Raises:
        ValueError: it is no Python file that can be read and compiled.
    """
    code = compiled(script)
    with as_main(script, arguments) as module:
        try:
            exec(code, vars(module))
        except EnoughError:
            return "enough", ""
        except KeyboardInterrupt:
            return "interrupted", ""
        except SystemExit as end:
            failed = end.code not in (None, 0)
            return ("raised", f"SystemExit: {end.code}") if failed else ("ended", "")
        except BaseException as error:
            return "raised", said_of(error, script)
    return "ended", ""


INTERRUPTED = 130


def run_to_its_end(script: Path, arguments: Sequence[str]) -> int:
    """Run a script and say what it raises as Python does; its exit code.

    Raises:
        ValueError: it is no Python file that can be read and compiled.
    """
    code = compiled(script)
    with as_main(script, arguments) as module:
        try:
            exec(code, vars(module))
        except SystemExit as end:
            return exit_code(end)
        except BaseException as error:
            trace = behind(error.__traceback__, script)
            sys.excepthook(type(error), error.with_traceback(trace), trace)
            return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def exit_code(end: SystemExit) -> int:
    """The number that a process ends with; what is no number is said on the error stream, as Python does."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def behind(trace: TracebackType | None, script: Path) -> TracebackType | None:
    """A traceback from the script's first frame on; whole where it has none."""
    found = trace
    while found is not None and found.tb_frame.f_code.co_filename != str(script):
        found = found.tb_next
    return found or trace


def compiled(script: Path) -> CodeType:
    """The script's code."""
    try:
        return compile(script.read_bytes(), str(script), "exec")
    except OSError as error:
        raise ValueError(f"{script} cannot be read: {error.strerror}") from error
    except SyntaxError as error:
        raise ValueError(f"{script} is no Python: {error.msg} (line {error.lineno})") from error
    except ValueError as error:
        raise ValueError(f"{script} is no Python: {error}") from error


@contextmanager
def as_main(script: Path, arguments: Sequence[str]) -> Iterator[ModuleType]:
    """A module that is ``__main__``, with the arguments in ``sys.argv``; those are as before afterwards."""
    module = ModuleType("__main__")
    vars(module).update(__file__=str(script), __builtins__=__builtins__)
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    sys.modules["__main__"] = module
    try:
        yield module
    finally:
        sys.argv, sys.path[:] = argv, path


def said_of(error: BaseException, script: Path) -> str:
    """An error in one line, with the last line of the script's own code on the way to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent == script.parent]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}{where}"
