"""A subject of the user's own: FILE:FUNCTION, imported, called and checked."""

import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diagnostics import Subject

PARTS = (2, 3)  # (model, batch), for a model with a loss of its own, or (model, batch, loss_fn)


def subject_at(target: str) -> "Subject":
    """The subject that a function in a file makes.

    Args:
        target: such as ``path/to/subject.py:make_subject``. The function takes no arguments and returns a Subject or
            (model, batch, loss_fn). The file's folder can be imported from while this runs; the working directory
            stays.

    Raises:
        ValueError: there is no such file or function, it raises, or it returns something else; in one line.
    """
    file, function = split(target)
    with importable(file.parent):
        make = function_of(imported(file), function, file)
        with told(f"{target} raised"):
            made = make()
        return subject_of_result(made, target, file.stem)


def split(target: str) -> tuple[Path, str]:
    """File and function of a target."""
    path, colon, function = target.rpartition(":")
    if not colon or not path or not function:
        raise ValueError(f"TARGET must be FILE:FUNCTION, such as subject.py:make_subject, not {target!r}")
    file = Path(path)
    if not file.exists():
        raise ValueError(f"{file} does not exist")
    if file.is_dir() or file.suffix != ".py":
        raise ValueError(f"{file} is no Python file; TARGET must be FILE.py:FUNCTION")
    return file.resolve(), function


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Modules beside the file can be imported inside."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def imported(file: Path) -> ModuleType:
    """The file as a module, under its own name where that is free: what it defines may look itself up by it."""
    name = file.stem if file.stem not in sys.modules else f"{file.stem} at {file.parent}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with told(f"{file} cannot be imported:"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def function_of(module: ModuleType, name: str, file: Path) -> Callable[[], Any]:
    """The function of this name, which must take no arguments."""
    function = getattr(module, name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"{file} has no function {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    needed = [each.name for each in inspect.signature(function).parameters.values() if needs_value(each)]
    if needed:
        raise ValueError(f"{file}:{name} must take no arguments; it needs {', '.join(needed)}")
    return function


def needs_value(parameter: inspect.Parameter) -> bool:
    """Whether a call must give this parameter."""
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in many


@contextmanager
def told(what: str) -> Iterator[None]:
    """What the user's code raises inside becomes one line: what, which error, and where it was raised."""
    try:
        yield
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{what} {said} ({place_of(error)})") from error


def place_of(error: BaseException) -> str:
    """The last line of the user's own code on the way to an error."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "importlib" not in frame.filename]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"


def subject_of_result(made: Any, target: str, name: str) -> "Subject":
    """What the function returned as a subject."""
    from diagnostics import Subject, subject_from
    from diagnostics.adapt import check_scope

    try:
        if isinstance(made, Subject):
            check_scope(made.model)
            return made
        if isinstance(made, tuple) and len(made) in PARTS:
            check_scope(made[0])
            return subject_from(*made, name=name)
    except TypeError as error:
        raise ValueError(f"{target}: {error}") from error
    raise ValueError(f"{target} must return a Subject or (model, batch, loss_fn), not {described(made)}")


def described(made: Any) -> str:
    """What was returned instead, in words."""
    if made is None:
        return "None; is its return missing?"
    return f"a tuple of {len(made)}" if isinstance(made, tuple) else f"a {type(made).__name__}"
