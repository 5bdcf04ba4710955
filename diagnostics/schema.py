"""The schema of diagnosis.json, made from the classes that it holds: as a JSON Schema, and as a page for people.

``unplateau explain --schema json`` and ``--schema markdown`` write both; tests fail where the kept ones are stale.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from diagnostics.diagnosis import DERIVED, SCHEMA, Cause, Diagnosis, Milestone, PathStep, Run
from diagnostics.fault import Family, Finding, Grade, Status
from diagnostics.levels import ReferenceLevel
from diagnostics.probe import Reading
from diagnostics.trial import Outcome, Trial

CLASSES = (Diagnosis, Cause, Finding, Trial, Reading, Milestone, PathStep, Run, Outcome, ReferenceLevel)
PLAIN: Mapping[Any, str | list[str]] = {
    str: "string",
    int: "integer",
    bool: "boolean",
    float: ["number", "null"],  # a loss that is not a number, or infinite, is null
    type(None): "null",
}
MEASUREMENT = "the probe's own fields by name; null where nothing was measured, and then `reason` says why"
MEANT: Mapping[tuple[type, str], str] = {
    (Diagnosis, "subject"): "its name",
    (Diagnosis, "history"): "the training loss that was recorded, one per optimizer step",
    (Diagnosis, "readings"): "what the probes measured",
    (Diagnosis, "findings"): "a verdict on every fault of the catalogue",
    (Diagnosis, "seconds"): "wall-clock time of the examination",
    (Cause, "finding"): "the fault and its verdict",
    (Trial, "seeds"): "one pair of runs for each",
    (Trial, "before"): "the loss without the repair, one per seed",
    (Trial, "after"): "the loss with the repair, one per seed",
    (Reading, "probe"): "the name of the probe",
    (Reading, "seed"): "of the bench that it measured on",
    (Reading, "seconds"): "that it took",
    (Reading, "measurement"): MEASUREMENT,
    (Reading, "reason"): "why nothing was measured",
    (Reading, "repaired"): "faults that had been repaired in the subject when this was read",
    (Run, "repaired"): "faults that were repaired in it",
    (Run, "outcome"): "what it came to",
    (Outcome, "regime"): "how it was trained",
    (Outcome, "seed"): "of the freshly initialised model and the batches",
}
"""What the docstrings leave to the name of a field."""
VERSION = "version of this schema; raised when a key changes its meaning or goes away"
FINDING: Mapping[str, tuple[Any, str]] = {
    "fault": (str, "the id of a fault of the catalogue"),
    "title": (str, "one sentence: what is wrong"),
    "grade": (Grade, "what a verdict of this fault is worth"),
    "family": (Family, "where a person would look for it"),
    "status": (Status, "the verdict"),
    "because": (str, "one sentence with the deciding numbers"),
    "numbers": (dict[str, float], "the deciding numbers by name"),
    "revealed": (bool, "whether it came to light only after other faults were repaired"),
    "readings": (list[dict[str, Any]], "what it rests on: probe, seed, and the faults repaired when it was read"),
}


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of what ``to_json`` makes of a diagnosis."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "diagnosis.json of unplateau"}
    others = {each.__name__: _object(each) for each in CLASSES if each is not Diagnosis}
    return about | _object(Diagnosis) | {"$defs": others}


def schema_page() -> str:
    """The same as a Markdown page: a table for each class, the whole file first."""
    intro = (
        f"# diagnosis.json, version {SCHEMA}\n\nMade by `unplateau explain --schema markdown`; as a JSON Schema: "
        "[diagnosis.schema.json](diagnosis.schema.json). Losses are in nats per token unless a unit says otherwise; a "
        "number that is not finite is `null`; faults are given by their ids ([catalogue](catalogue.md))."
    )
    return "\n\n".join([intro, *map(_page_section, CLASSES)]) + "\n"


def _object(kind: type) -> dict[str, Any]:
    """The schema of one class: every field and derived value is there, and nothing else."""
    properties = {name: _typed(hint) | _described(told) for name, (hint, told) in fields_of(kind).items()}
    if kind is Diagnosis:
        properties["schema"] = {"const": SCHEMA, "description": VERSION}
    about = _described(_first_sentence(kind))
    return about | {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def fields_of(kind: type) -> dict[str, tuple[Any, str]]:
    """Name -> (type, what it means) of everything that a file holds of a class."""
    if kind is Finding:
        return dict(FINDING)
    hints, told = get_type_hints(kind), arguments(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    fields = {name: (hints[name], told.get(name) or MEANT.get((kind, name), "")) for name in names}
    derived = {name: _derived(kind, name) for name in DERIVED.get(kind, ())}
    version = {"schema": (int, VERSION)} if kind is Diagnosis else {}
    return version | derived | fields


def _derived(kind: type, name: str) -> tuple[Any, str]:
    """Type and meaning of a property."""
    read = getattr(kind, name).fget
    return get_type_hints(read)["return"], _joined(inspect.getdoc(read) or "")


def arguments(kind: type) -> dict[str, str]:
    """What the docstring of a class says about each of its fields, under "Args:"; "a / b: ..." speaks of both."""
    block = (inspect.getdoc(kind) or "").partition("Args:\n")[2]
    found = re.findall(r"^ {4}([\w /]+): (.*(?:\n {5,}.*)*)", block, re.MULTILINE)
    return {name.strip(): _joined(text) for names, text in found for name in names.split("/")}


def _typed(hint: Any) -> dict[str, Any]:
    """The schema of a type hint."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if hint is Any:
        return {"type": ["object", "null"]}
    if origin is Literal:
        return {"enum": list(inside)}
    if origin in (Union, types.UnionType):
        return _any_of([_typed(each) for each in inside])
    if origin in (tuple, list, frozenset):
        return {"type": "array", "items": _typed(inside[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _typed(inside[1]) if inside[1] is not Any else {}}
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _any_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """One of several types; plain ones are listed in one place."""
    names = [each["type"] for each in schemas if set(each) == {"type"}]
    if len(names) < len(schemas):
        return {"anyOf": schemas}
    flat = [name for each in names for name in (each if isinstance(each, list) else [each])]
    return {"type": list(dict.fromkeys(flat))}


def _described(text: str) -> dict[str, str]:
    return {"description": text} if text else {}


def _first_sentence(kind: type) -> str:
    """The first line of a class's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0].replace("``", "`")


def _joined(text: str) -> str:
    """One line without a full stop, in the words of a file: null instead of None."""
    plain = re.sub(r"\bNone\b", "null", " ".join(text.split()).replace("``", "`"))
    return plain.rstrip(".") if plain.count(". ") == 0 and not plain.endswith("...") else plain


def _page_section(kind: type) -> str:
    name = "The whole file" if kind is Diagnosis else kind.__name__
    rows = [f"| `{field}` | {_spoken(hint)} | {told} |" for field, (hint, told) in fields_of(kind).items()]
    table = "\n".join(["| key | type | meaning |", "|---|---|---|", *rows])
    return f"## {name}\n\n{_first_sentence(kind)}\n\n{table}"


def _spoken(hint: Any) -> str:
    """A type in words: "list of Cause", "number or null"."""
    schema = _typed(hint)
    if "enum" in schema:
        return " \\| ".join(f'"{each}"' for each in schema["enum"])
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_spoken(each) for each in get_args(hint))
    if schema.get("type") == "array":
        return f"list of {_spoken(get_args(hint)[0])}"
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(names)
