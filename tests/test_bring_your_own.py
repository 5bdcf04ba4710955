"""docs/bring_your_own.md says what is so: its programs run as they stand there, in all three ways."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.commands.target import subject_at

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "bring_your_own.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PROGRAM = [block for block in BLOCKS if not block.startswith("# ")]
FILES = {block.partition("\n")[0].removeprefix("# "): block for block in BLOCKS if block.startswith("# ")}


@pytest.mark.slow
def test_the_program_names_the_leak(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in PROGRAM:
        exec(compile(block, "bring_your_own.md", "exec"), names)
    said = capsys.readouterr().out
    assert names["diagnosis"].causes[0].id == "future-token-leak"
    assert "future-token-leak" in said
    assert said.splitlines()[-1] == "faulty"


def test_the_page_shows_all_three_ways() -> None:
    assert len(PROGRAM) == 2
    assert set(FILES) == {"subject.py", "test_training.py"}
    assert "$ unplateau diagnose subject.py:make_subject --seconds 60" in PAGE


def test_the_file_for_the_command_line_gives_a_subject(tmp_path: Path) -> None:
    (tmp_path / "subject.py").write_text(FILES["subject.py"])
    subject = subject_at(f"{tmp_path / 'subject.py'}:make_subject")
    assert subject.loss(subject.model, next(subject.batches(0))).shape == ()


@pytest.mark.slow
def test_the_test_suite_passes(tmp_path: Path) -> None:
    (tmp_path / "test_training.py").write_text(FILES["test_training.py"])
    run = "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    code = f"import sys, pytest; sys.path.insert(0, {str(ROOT)!r}); {run}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed, \d+ skipped", done.stdout)
