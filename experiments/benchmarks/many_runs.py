"""Ten thousand runs: how long listing and comparing them takes, and how much memory.

    python -m experiments.benchmarks.many_runs --runs 10000 --rows 100 --out many-runs.json

Records are written by hand (training that many takes days): a sweep over four settings with five seeds each, so many
rows of training metrics in each and a tenth as many evaluations. Every stage runs in an interpreter of its own, so that
its peak memory is its own, imports included; the disk's cache is warm.
"""

import json
import math
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments.config import override, to_dict
from experiments.recipes import small

STAGES = {
    "list": "from experiments.runs import local_runs; told = len(local_runs(Path(folder)).runs)",
    "load": "from experiments.compare import load_runs; told = len(load_runs(folder).curves)",
    "compare": "from experiments.compare import compare, load_runs; told = len(compare(load_runs(folder)).groups)",
    "page": "from experiments.compare import compare, load_runs; from experiments.compare_page import compare_page; "
    "told = len(compare_page(compare(load_runs(folder))))",
}
"""What is measured, as code that leaves in `told` how many runs, rows, groups or characters came out of it."""

MEASURE = """
import json, resource, sys, time
from pathlib import Path
folder, code = sys.argv[1:]
began = time.perf_counter()
exec(code)
seconds = time.perf_counter() - began
megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": round(seconds, 2), "peak_megabytes": round(megabytes), "told": told}))
"""


def benchmark(
    runs: Annotated[int, typer.Option(help="Records.", min=1)] = 10_000,
    rows: Annotated[int, typer.Option(help="Rows of training metrics in each.", min=1)] = 100,
    out: Annotated[Path | None, typer.Option(help="JSON file to write. Default: standard output")] = None,
) -> None:
    """Measure listing and comparing many runs; the figures are JSON."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        write_runs(Path(folder), runs, rows)
        about = {"runs": runs, "rows_each": rows + rows // 10, "written_seconds": round(time.perf_counter() - began, 1)}
        found = {name: measured(code, folder) for name, code in STAGES.items()}
    report = json.dumps(about | {"python": platform.python_version(), "machine": platform.platform()} | found, indent=1)
    if out:
        out.write_text(report + "\n")
    else:
        print(report)


def measured(code: str, folder: str) -> dict[str, Any]:
    """Seconds and peak memory of a piece of code in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, folder, code],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return dict(json.loads(done.stdout))


def write_runs(folder: Path, runs: int, rows: int) -> None:
    """So many records of a sweep, five seeds of each setting."""
    chance = random.Random(0)
    for number in range(runs):
        setting, seed = divmod(number, 5)
        changes = {
            "optim.lr": 10 ** (-4 + 0.2 * (setting % 10)),
            "model.num_layers": 1 + setting // 10 % 10,
            "model.dropout": 0.05 * (setting // 100 % 10),
            "optim.warmup_steps": 10 * (setting // 1000),
        }
        config = override(small(), changes | {"seed": seed, "train.steps": 10 * rows})
        write_run(folder / f"{number:06}", to_dict(config), sweep_rows(rows, chance))


def write_run(folder: Path, config: dict[str, Any], rows: Iterator[dict[str, float]]) -> None:
    """One record of a finished run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "environment.json").write_text("{}")
    (folder / "state.json").write_text('{"state": "finished"}')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sweep_rows(rows: int, chance: random.Random) -> Iterator[dict[str, float]]:
    """What a run logs: a falling loss with noise, and an evaluation at every tenth row."""
    for row in range(1, rows + 1):
        loss = 3 + 3 * math.exp(-row / 20) + chance.gauss(0, 0.05)
        when = {"step": 10 * row, "tokens": 10_240 * row, "seconds": 0.5 * row}
        yield {**when, "train/loss": loss, "optim/lr": 1e-3, "grad/norm": chance.random()}
        if row % 10 == 0:
            yield {**when, "val/loss": loss + 0.1, "val/bits_per_byte": loss / 2}


if __name__ == "__main__":
    typer.run(benchmark)
