import doctest
import importlib
import subprocess
import sys

import pytest

import bpe


def test_importing_bpe_does_not_import_what_it_does_not_use():
    heavy = "{'torch', 'wandb', 'pandas', 'tokenizers', 'tiktoken', 'transformers', 'matplotlib'}"
    program = f"import sys, bpe; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["bpe", "bpe.merges", "bpe.pretokenizer", "bpe.tokenizer", "bpe.vocabulary"])
def test_the_examples_in_the_docstrings_come_out_as_written(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0


def test_everything_in_all_exists():
    assert [name for name in bpe.__all__ if not hasattr(bpe, name)] == []
