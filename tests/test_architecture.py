"""Who may import whom, and what merely importing a package may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("transformer", "bpe", "diagnostics", "experiments")
OUTSIDE = ("wandb", "pandas", "scipy", "plotly", "matplotlib", "optuna", "rich", "typer")
DOORS = {
    "wandb": {"experiments/tracking.py", "experiments/wandb_runs.py", "experiments/dashboard.py"},
    "optuna": {"experiments/search/"},
    "scipy": {"experiments/contrast.py"},
    "plotly": {"experiments/compare_page.py"},
}
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""
IMPORT_PACKAGE = "import sys, {package}\n"
TELL = "print(*[name for name in {names!r} if name in sys.modules])"


def python(code: str) -> str:
    """What a fresh interpreter prints when it runs the code in the repository's root."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def imports_of(file: Path) -> set[str]:
    """Top-level names of everything that a file imports, wherever in the file it does so."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    from_ = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | from_}


def test_import_contracts_are_kept() -> None:
    code = "from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    assert "0 broken" in python("import sys; sys.path.insert(0, '.')\n" + code)


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("bpe", ("torch", "numpy", "transformers", *OUTSIDE)),
        ("transformer", ("transformers", *OUTSIDE)),
        ("diagnostics", ("transformers", *OUTSIDE)),
    ],
)
def test_no_module_of_a_library_loads_what_it_must_not(package: str, unwanted: tuple[str, ...]) -> None:
    assert python(IMPORT_ALL.format(package=package) + TELL.format(names=unwanted)) == ""


@pytest.mark.parametrize("package", ["experiments", "experiments.config", "experiments.recipes"])
def test_settings_load_no_heavy_library(package: str) -> None:
    unwanted = ("torch", "transformers", *OUTSIDE)
    assert python(IMPORT_PACKAGE.format(package=package) + TELL.format(names=unwanted)) == ""


@pytest.mark.parametrize(("library", "doors"), DOORS.items())
def test_an_outside_system_has_one_door(library: str, doors: set[str]) -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    users = {file.relative_to(ROOT).as_posix() for file in files if library in imports_of(file)}
    assert [user for user in users if not user.startswith(tuple(doors))] == []
