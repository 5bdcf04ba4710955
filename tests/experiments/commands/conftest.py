"""The command line, run inside this process, and a run small enough to train in a blink."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments.commands import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Arguments -> exit code, output and errors of `unplateau ARGUMENTS`."""

    def ended(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["unplateau", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capfd.readouterr()
        return Ended(caught.value.code or 0, out, err)

    return ended


@pytest.fixture
def small(text_file: Path) -> list[str]:
    """Options that make any recipe tiny: 3 steps, width 8, one layer, the text of `text_file`."""
    settings = {
        "corpus.source": text_file,
        "tokenizer.vocab_size": 277,
        "data.context": 5,
        "data.batch_size": 7,
        "data.train_share": 0.8,
        "model.d_model": 8,
        "model.num_heads": 2,
        "model.num_layers": 1,
        "model.d_ff": 11,
        "train.steps": 3,
        "train.eval_batches": 2,
        "train.sample_tokens": 3,
        "optim.warmup_steps": 0,
    }
    return ["--wandb", "disabled", *(f"--set={name}={value}" for name, value in settings.items())]


@pytest.fixture
def stuck(small: list[str]) -> list[str]:
    """The same for the stuck recipe."""
    return ["--recipe", "stuck", *small]


@pytest.fixture
def tokenizer(run: Run, text_file: Path, tmp_path: Path) -> Path:
    """A tokenizer of 300 types with one special token."""
    folder = tmp_path / "tokenizer"
    assert run("tokenize", text_file, "--vocab-size", 300, "--special-token", "<|end|>", "--out", folder).code == 0
    return folder
