"""The package as a whole: what it imports, what it exports, its examples, and torch.compile."""

import doctest
import importlib
import subprocess
import sys

import pytest
import torch

import transformer

MODULES = [
    "attention",
    "config",
    "generation",
    "initialization",
    "language_model",
    "layers",
    "masks",
    "seq2seq",
    "stacks",
]


def run_python(code: str) -> str:
    """Output of a fresh interpreter, in which nothing checks types and warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_importing_it_imports_no_other_package_of_the_project_and_no_application_library() -> None:
    loaded = set(run_python("import sys, transformer; print(*sys.modules)").split())
    assert "torch" in loaded
    foreign = {"experiments", "diagnostics", "bpe", "wandb", "pandas", "matplotlib", "transformers", "rich"}
    assert loaded & foreign == set()


def test_everything_that_it_promises_exists() -> None:
    assert all(hasattr(transformer, name) for name in transformer.__all__)


@pytest.mark.parametrize("module", ["transformer", *(f"transformer.{name}" for name in MODULES)])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), extraglobs={"torch": torch})
    assert result.failed == 0


@pytest.mark.slow
def test_it_compiles_without_a_graph_break() -> None:
    """The encoder-decoder contains every part that the language model has."""
    run_python(
        "import torch\n"
        "from transformer import ModelConfig, Seq2Seq\n"
        "model = Seq2Seq(ModelConfig(vocab_size=11, d_model=6, num_heads=3, num_layers=1, dropout=0.0))\n"
        "tokens = torch.tensor([[2, 3, 5, 7]])\n"
        "inputs = tokens, tokens, tokens == 3, tokens == 7\n"
        "compiled = torch.compile(model, fullgraph=True, backend='eager')\n"
        "torch.testing.assert_close(model(*inputs), compiled(*inputs))\n"
    )
