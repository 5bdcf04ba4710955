"""The schema of diagnosis.json: made from the classes, complete, kept up to date, and true of what is written."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diagnostics.diagnosis import SCHEMA, Diagnosis, to_json
from diagnostics.fault import Finding
from diagnostics.schema import CLASSES, arguments, fields_of, json_schema, schema_page
from diagnostics.trial import Trial
from tests import diagnoses

DOCS = Path(__file__).parents[2] / "docs"
TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}


def violations(value: Any, schema: dict[str, Any], at: str = "$") -> Iterator[str]:
    """Where a value departs from a schema: the keywords that ours uses, in a few lines that one can check by eye."""
    if "$ref" in schema:
        schema = json_schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema and all(any(violations(value, each, at)) for each in schema["anyOf"]):
        yield f"{at} is none of its types"
    if "const" in schema and value != schema["const"]:
        yield f"{at} is not {schema['const']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is {value!r}"
    names = schema.get("type", list(TYPES))
    if not any(TYPES[name](value) for name in ([names] if isinstance(names, str) else names)):
        yield f"{at} is no {names}"
    if isinstance(value, list) and "items" in schema:
        for index, each in enumerate(value):
            yield from violations(each, schema["items"], f"{at}[{index}]")
    if isinstance(value, dict):
        yield from _object_violations(value, schema, at)


def _object_violations(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
    yield from (f"{at} lacks {name}" for name in schema.get("required", ()) if name not in value)
    for name, each in value.items():
        if name not in known and rest is False:
            yield f"{at} has {name}"
        yield from violations(each, known.get(name, rest or {}), f"{at}.{name}")


@pytest.mark.parametrize("make", [diagnoses.stuck, diagnoses.healthy, diagnoses.unexplained, diagnoses.bare])
def test_what_is_written_is_what_the_schema_says(make: Callable[[], Diagnosis]) -> None:
    assert list(violations(json.loads(json.dumps(to_json(make()), allow_nan=False)), json_schema())) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": SCHEMA + 1}, f"$.schema is not {SCHEMA}"),
        ({"state": "tired"}, "$.state is 'tired'"),
        ({"standing": "high"}, "$.standing is no ['number', 'null']"),
        ({"mood": 1}, "$ has mood"),
        ({"seeds": [0.5]}, "$.seeds[0] is no integer"),
        ({"runs": [{}]}, "$.runs[0] lacks repaired"),
    ],
)
def test_what_is_wrong_would_be_seen(change: dict[str, Any], said: str) -> None:
    assert next(violations(to_json(diagnoses.healthy()) | change, json_schema())) == said


@pytest.mark.parametrize(
    ("name", "form", "wanted"),
    [
        ("diagnosis.schema.json", "json", json.dumps(json_schema(), indent=1) + "\n"),
        ("diagnosis-schema.md", "markdown", schema_page()),
    ],
)
def test_the_kept_schema_is_not_stale(name: str, form: str, wanted: str) -> None:
    said = f"docs/{name} is stale; write it again: unplateau explain --schema {form} > docs/{name}"
    assert (DOCS / name).read_text() == wanted, said


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_key_has_a_meaning(kind: type) -> None:
    assert [name for name, (_, told) in fields_of(kind).items() if not told] == []
    assert f"\n## {'The whole file' if kind is Diagnosis else kind.__name__}\n" in schema_page()


def test_every_class_that_a_key_leads_to_has_a_part_of_its_own() -> None:
    used = {part.partition('"')[0] for part in json.dumps(json_schema()).split("#/$defs/")[1:]}
    assert used == set(json_schema()["$defs"]) == {kind.__name__ for kind in CLASSES} - {"Diagnosis"}


def test_a_docstring_speaks_of_each_field_once() -> None:
    @dataclasses.dataclass
    class Pair:
        """Two.

        Args:
            left / right: a side,
                in metres.
            top: None where there is none.
        """

    assert arguments(Pair) == {
        "left": "a side, in metres",
        "right": "a side, in metres",
        "top": "null where there is none",
    }


def test_a_finding_and_a_trial_say_what_follows_from_them() -> None:
    plain = to_json(diagnoses.stuck())
    assert set(plain["findings"][0]) == set(fields_of(Finding))
    assert set(plain["causes"][0]["trials"][0]) == set(fields_of(Trial))
    assert [cause["confirmed"] for cause in plain["causes"]] == [True, True, True, True, False]
