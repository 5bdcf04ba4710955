"""The README says what is so: its code runs, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from diagnostics.faults import CATALOGUE
from experiments.commands import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None}


def blocks(language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_of_the_readme_runs_and_names_the_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    said = capsys.readouterr().out
    assert "softmax-before-cross-entropy" in said
    assert "onfirmed" in said


def test_the_faults_are_on_a_page_of_their_own() -> None:
    assert "](docs/catalogue.md)" in README
    assert set(re.findall(r"unplateau explain ([a-z][a-z-]+)", README)) <= {fault.id for fault in CATALOGUE}


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"(?:`|\$ )unplateau ([a-z]+)", README))
    assert named == COMMANDS


def test_the_commands_of_the_first_page_are_the_ones_to_type() -> None:
    typed = [shlex.split(line.removeprefix("$ ")) for block in blocks("console") for line in block.splitlines()]
    assert typed[0] == ["python", "-m", "pip", "install", "-e", "."]
    assert typed[1] == ["unplateau", "diagnose"]
    assert ["pytest"] in typed


def test_everything_that_the_readme_links_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_file_tree_names_every_package() -> None:
    tree = next(block for block in blocks("text") if block.startswith("transformer/"))
    named = {line.split("/")[0] for line in tree.splitlines() if not line.startswith(" ")}
    assert named == {"transformer", "bpe", "diagnostics", "experiments", "tests", "docs"}
