"""How settings are declared, checked, read from text and explained: the machinery below `experiments.config`.

Every setting is declared once, with its default, its meaning, its unit and its range. The checks, the parsing
of values typed on a command line and the help texts all read that one declaration.
"""

import difflib
import math
import os
import types
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
S = TypeVar("S", bound="Section")
Number = int | float


def setting(
    default: T,
    what: str,
    *,
    unit: str = "",
    at_least: Number | None = None,
    above: Number | None = None,
    at_most: Number | None = None,
    below: Number | None = None,
) -> T:
    """One field of a section: its default, what it does, its unit and its range (None: no bound)."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    limits = {name: bound for name, bound in bounds.items() if bound is not None}
    return field(default=default, metadata={"what": what, "unit": unit, "limits": limits})


class Section:
    """A node of the tree: types and ranges of its fields are checked once, when it is made."""

    def __post_init__(self) -> None:
        types_of = get_type_hints(type(self))
        for declared in _fields(type(self)):
            value = getattr(self, declared.name)
            _refuse_wrong_type(declared.name, value, types_of[declared.name])
            _refuse_out_of_range(declared.name, value, declared.metadata.get("limits", {}))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One line of help: the dotted name of a field, its default, its unit ("" without one), what it does."""

    name: str
    default: Any
    unit: str
    what: str


def settings_of(section: type[Section], prefix: str = "") -> list[Setting]:
    """Every setting below `section`, in the order of the tree: what help texts and tables are made from."""
    found = []
    for each in _fields(section):
        if isinstance(each.default, Section):
            found += settings_of(type(each.default), f"{prefix}{each.name}.")
        else:
            unit, what = each.metadata["unit"], each.metadata["what"]
            found.append(Setting(name=prefix + each.name, default=each.default, unit=unit, what=what))
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: "; did you mean 'lr'?", or all that is known where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def section_from(cls: type[S], tree: object, path: str = "") -> S:
    """The section that `tree` describes, nested sections included; what is left out takes its default.

    Args:
        cls: which section to make.
        tree: names to values; text is parsed to the type of the field.
        path: dotted name of the section with a dot at its end, for messages.
    Raises:
        ValueError: a name that does not exist, a value that does not fit.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"{path.rstrip('.') or 'a configuration'} must be a table of settings, not {tree!r}")
    for name in tree:
        _refuse_unknown_name(cls, name)
    kinds = get_type_hints(cls)
    return cls(**{name: _parsed(path + name, value, kinds[name]) for name, value in tree.items()})


def value_of(section: type[Section], name: str, text: str) -> Any:
    """The value that `text` stands for as the setting with this dotted `name`, checked on its own.

    Raises:
        ValueError: there is no such setting, or the value does not fit it.
    """
    inner, kind = _holder(section, name)
    value = _parsed(name, text, kind)
    limits = {each.name: each.metadata.get("limits", {}) for each in _fields(inner)}
    _refuse_out_of_range(name, value, limits[name.rpartition(".")[2]])
    return value


def put(section: type[Section], tree: dict[str, Any], name: str, value: Any) -> None:
    """Write `value` into a nested `tree` of `section`, under a dotted `name` that must exist."""
    _, kind = _holder(section, name)
    if is_dataclass(kind) and not isinstance(value, Mapping):
        example = f"{name}.{_fields(kind)[0].name}"
        raise ValueError(f"{name} is a section with settings of its own; set one of those, such as {example!r}")
    *parents, last = name.split(".")
    for parent in parents:
        tree = tree[parent]
    tree[last] = value


def _holder(section: type[Section], name: str) -> tuple[type[Section], Any]:
    """The section that holds the setting with this dotted name, and the type that the setting has there."""
    *parents, last = name.split(".")
    for parent in parents:
        _refuse_unknown_name(section, parent)
        section = get_type_hints(section)[parent]
        if not is_dataclass(section):
            raise ValueError(f"{name} does not exist: {parent!r} is a single setting, not a section")
    _refuse_unknown_name(section, last)
    return section, get_type_hints(section)[last]


def _parsed(name: str, value: Any, kind: Any) -> Any:
    """`value` as a `kind`: text is read, lists become tuples, whole numbers floats; the rest must fit."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return section_from(kind, value, path=f"{name}.")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    for option in _options(kind):
        fits, parsed = _attempt(value, option)
        if fits:
            return parsed
    raise ValueError(f"{name} must be {_in_words(kind)}, not {value!r}")


def _attempt(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether `value` can be read as the simple type `kind`, and what it is then."""
    if kind is type(None):
        return value is None or _is_text(value, "none", "null"), None
    if get_origin(kind) is tuple:
        return _attempt_tuple(value, kind)
    if kind is bool and isinstance(value, str):
        truth = _is_text(value, "true", "yes", "on", "1")
        return truth or _is_text(value, "false", "no", "off", "0"), truth
    if kind in (int, float) and isinstance(value, str):
        return _attempt_number(value, kind)
    if kind is float and _fits(value, float):
        return True, float(value)
    return _fits(value, kind), value


def _attempt_number(text: str, kind: type) -> tuple[bool, Any]:
    try:
        return True, kind(text)
    except ValueError:
        return False, None


def _attempt_tuple(value: Any, kind: Any) -> tuple[bool, Any]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value else []
    if not isinstance(value, list | tuple):
        return False, None
    members = get_args(kind)
    members = (members[0],) * len(value) if members[-1] is Ellipsis else members
    if len(members) != len(value):
        return False, None
    attempts = [_attempt(each, member) for each, member in zip(value, members, strict=True)]
    return all(fits for fits, _ in attempts), tuple(parsed for _, parsed in attempts)


def _options(kind: Any) -> list[Any]:
    """The members of a union in the order to try them: None, plain text without a comma, the rest."""
    if get_origin(kind) not in (Union, types.UnionType):
        return [kind]
    members = sorted(get_args(kind), key=lambda member: member is not type(None))
    return [_TextWithoutComma if member is str and len(members) > 2 else member for member in members]


class _TextWithoutComma(str):
    """Marks the text member of a union with a tuple: "a.txt,b.txt" is two files."""


def _fits(value: Any, kind: Any) -> bool:
    """Whether `value` already has the type; a whole number is a float, a truth value is no number."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, member) for member in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and _attempt_tuple(value, kind)[0]
    if kind is _TextWithoutComma:
        return isinstance(value, str) and "," not in value
    if kind in (int, float):
        return isinstance(value, int if kind is int else Number) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(member) for member in get_args(kind))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        members = get_args(kind)
        count = "" if members[-1] is Ellipsis else f"{len(members)} "
        return f"{count}comma-separated {members[0].__name__} values"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))


def _is_text(value: Any, *words: str) -> bool:
    return isinstance(value, str) and value.strip().lower() in words


def _fields(section: Any) -> tuple[Field[Any], ...]:
    """The declared fields; `Section` itself is no dataclass, all its subclasses are."""
    return fields(section)


def _refuse_unknown_name(cls: type, name: str) -> None:
    known = [each.name for each in _fields(cls)]
    if name not in known:
        raise ValueError(f"{cls.__name__} has no field {name!r}{did_you_mean(name, known)}")


def _refuse_wrong_type(name: str, value: Any, kind: Any) -> None:
    if not _fits(value, kind):
        raise ValueError(f"{name} must be {_in_words(kind)}, not {value!r}")


def _refuse_out_of_range(name: str, value: Any, limits: Mapping[str, Number]) -> None:
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} ({value}) must be a finite number")
    rules = {
        "at_least": ("at least", lambda bound: value >= bound),
        "above": ("above", lambda bound: value > bound),
        "at_most": ("at most", lambda bound: value <= bound),
        "below": ("below", lambda bound: value < bound),
    }
    if not all(rules[limit][1](bound) for limit, bound in limits.items()):
        wanted = " and ".join(f"{rules[limit][0]} {bound:g}" for limit, bound in limits.items())
        raise ValueError(f"{name} ({value}) must be {wanted}")
