"""`unplateau diagnose FILE:FUNCTION`: a setup of the user's own, reported like a recipe, refused in one line."""

import json
import os
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from experiments.commands.target import subject_at

OWN = """
    import torch
    from torch import nn

    from beside import points


    def make_subject():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 31), nn.ReLU(), nn.Linear(31, 3), nn.Softmax(dim=-1))
        given = points()
        return model, (given, (given[:, 0] > 0).long() + (given[:, 1] > 0).long()), nn.CrossEntropyLoss()


    def make_whole():
        from diagnostics import subject_from

        return subject_from(*make_subject(), name="a name / of my own", optimizer=torch.optim.AdamW)


    def returns_nothing():
        make_subject()


    def returns_four():
        return 1, 2, 3, 4


    def returns_no_model():
        return "model", "batch"


    def returns_compiled():
        model, *rest = make_subject()
        model.compile()
        return model, *rest


    def wants(seed, name):
        return make_subject()


    def raises():
        raise KeyError("what the user's own code says")


    def leaves():
        raise SystemExit(3)


    value = 3
"""
BESIDE = """
    import torch


    def points():
        return torch.randn(37, 5)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A file with a setup, and a module beside it."""
    folder = tmp_path / "my folder"
    folder.mkdir()
    (folder / "beside.py").write_text(dedent(BESIDE))
    (folder / "own.py").write_text(dedent(OWN))
    yield folder / "own.py"  # type: ignore[misc]
    for name in [name for name in sys.modules if name.startswith(("own", "beside", "broken"))]:
        del sys.modules[name]


def test_it_is_reported_like_a_recipe(run: Any, own: Path, tmp_path: Path) -> None:
    out, path, here = tmp_path / "out", list(sys.path), os.getcwd()
    options = ["--wandb", "offline", "--seeds", 2, "--seconds", 1, "--workers", 1, "--out", out]
    ended = run("diagnose", f"{own}:make_whole", *options)
    assert (ended.code, ended.err) == (0, "")
    assert "softmax-before-cross-entropy" in ended.out
    found = json.loads((out / "diagnosis.json").read_text())
    assert found["subject"] == "a name / of my own"
    assert found["causes"][0]["finding"]["fault"] == "softmax-before-cross-entropy"
    assert "softmax-before-cross-entropy" in (out / "report.md").read_text()
    assert "<html" in (out / "report.html").read_text()
    assert list(out.glob("wandb/offline-run-*"))
    assert (sys.path, os.getcwd()) == (path, here)
    assert f"report   {out / 'report.html'}" in ended.out
    again = run("diagnose", f"{own}:make_whole", *options)
    assert refused(again, "already holds a diagnosis; choose another folder with --out")


def test_a_model_a_batch_and_a_loss_are_enough(own: Path) -> None:
    subject = subject_at(f"{own}:make_subject")
    assert subject.name == "own (trained with AdamW at 0.001, as no optimizer was given)"
    assert subject.loss(subject.model, next(subject.batches(0))).shape == ()


def refused(ended: Any, message: str) -> bool:
    """Exit code 2, and one line that says why on the error stream."""
    assert ended.code == 2, ended
    assert message in ended.err
    assert ended.err.startswith("unplateau: ")
    assert ended.err.count("\n") == 1
    return True


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("make_subjec", "has no function 'make_subjec'; did you mean 'make_subject'?"),
        ("value", "has no function 'value'"),
        ("returns_nothing", "must return a Subject or (model, batch, loss_fn), not None; is its return missing?"),
        ("returns_four", "must return a Subject or (model, batch, loss_fn), not a tuple of 4"),
        ("returns_no_model", "model must be a torch.nn.Module, not str"),
        ("wants", "must take no arguments; it needs seed, name"),
        ("raises", 'raised KeyError: "what the user\'s own code says" ('),
        ("leaves", "raised SystemExit: 3 ("),
    ],
)
def test_what_cannot_be_used_is_one_line(function: str, message: str, run: Any, own: Path, tmp_path: Path) -> None:
    assert refused(run("diagnose", f"{own}:{function}", "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_one_line(run: Any, own: Path) -> None:
    assert refused(run("diagnose", f"{own}:returns_compiled"), "compiled models are out of scope")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module' ("),
        ("def make(:", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero ("),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(code: str, message: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(f"\n{code}\n")
    ended = run("diagnose", f"{tmp_path / 'broken.py'}:make")
    assert refused(ended, message)
    assert f"{tmp_path / 'broken.py'}, line 2" in ended.err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.py:make", "nowhere.py does not exist"),
        ("subject.py", "subject.py does not exist; give the path of a training script, or FILE.py:FUNCTION"),
        (":make", "TARGET must be FILE:FUNCTION"),
        (f"{Path(__file__).parent}:make", "is no Python file"),
    ],
)
def test_a_target_that_is_none_is_one_line(target: str, message: str, run: Any) -> None:
    assert refused(run("diagnose", target), message)


@pytest.mark.parametrize("option", [["--recipe", "small"], ["--set", "optim.lr=1"]], ids=["recipe", "set"])
def test_options_of_recipes_are_refused(option: list[str], run: Any, own: Path) -> None:
    assert refused(run("diagnose", f"{own}:make_subject", *option), f"{option[0]} is about recipes")


@pytest.mark.parametrize("option", ["--scratch", "--quiet", "--steps=5", "--observe=7"])
def test_options_of_scripts_are_refused_elsewhere(run: Any, option: str) -> None:
    assert refused(run("diagnose", option), "say how a script is watched; give a SCRIPT.py")
