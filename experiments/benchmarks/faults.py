"""The whole examination on every fault in every subject that can carry it, on healthy variants, and on pairs.

Each case is a line of ``cases.jsonl``, written as soon as it is done: a run that is stopped goes on where it was. The
cases come in a fixed random order, so that those of a stopped run are a fair sample of all.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from diagnostics.causes import Budget
from diagnostics.diagnosis import Diagnosis
from diagnostics.examination import examine
from diagnostics.faults import CATALOGUE
from diagnostics.workers import run_all
from experiments.benchmarks.cases import Case, healthy_cases, make, pair_cases, planted_cases
from experiments.benchmarks.scores import Named, Record, confusion, record_of, seconds_per_diagnosis, shares
from experiments.benchmarks.subjects import HEALTHY
from experiments.settings import did_you_mean

BUDGET = Budget(seeds=(0, 1), one_batch_steps=100, fresh_steps=100, workers=1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run.

    Args:
        subjects: names of healthy subjects.
        faults: ids to plant.
        seeds: how often each fault is planted in each subject.
        pairs: how many pairs of faults.
        healthy: how many healthy variants.
    """

    subjects: tuple[str, ...]
    faults: tuple[str, ...]
    seeds: int = 1
    pairs: int = 60
    healthy: int = 120

    def __post_init__(self) -> None:
        for what, named, known in (
            ("subject", self.subjects, list(HEALTHY)),
            ("fault", self.faults, [fault.id for fault in CATALOGUE]),
        ):
            unknown = next((each for each in named if each not in known), None)
            if unknown is not None:
                raise ValueError(f"no {what} {unknown!r}{did_you_mean(unknown, known)}")

    def cases(self) -> list[Case]:
        """Every case, in an order that does not depend on what is wrong in it."""
        cases = [
            *healthy_cases(self.healthy, self.subjects),
            *planted_cases(self.seeds, self.subjects, self.faults),
            *pair_cases(self.pairs, self.subjects, self.faults),
        ]
        random.Random(2).shuffle(cases)
        return cases


def run(
    plan: Plan,
    folder: Path,
    *,
    workers: int,
    limit_seconds: float | None = None,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Record]:
    """The records of the plan's cases: those that the folder has already, and as many more as the time allows."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "cases.jsonl"
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    cases = plan.cases()
    end_last_line(file)
    known = {record.key for record in read_records(file)}
    missing = [case for case in cases if case.key not in known]
    start = len(cases) - len(missing)
    on_done(start, len(cases))
    tasks = [partial(keep, case, file, deadline) for case in missing]
    run_all(tasks, workers=workers, on_done=lambda done: on_done(start + done, len(cases)))
    wanted = {case.key for case in cases}
    return [record for record in read_records(file) if record.key in wanted]


def end_last_line(file: Path) -> None:
    """Give a line that was cut off its end, so that the next record does not become part of it."""
    if file.exists() and not file.read_text("utf-8").endswith("\n"):
        with file.open("a", encoding="utf-8") as out:
            out.write("\n")


def keep(case: Case, file: Path, deadline: float | None) -> None:
    """Diagnose one case and append its record, unless time is up."""
    if deadline is not None and time.monotonic() > deadline:
        return
    line = json.dumps(asdict(diagnosed(case)))
    with file.open("a", encoding="utf-8") as out:  # one write of one short line: side by side they do not mix
        out.write(line + "\n")


def read_records(file: Path) -> list[Record]:
    """The records of a file, each case once; a line that was cut off is left out."""
    if not file.exists():
        return []
    found: dict[str, Record] = {}
    for line in file.read_text("utf-8").splitlines():
        try:
            record = record_of(json.loads(line))
        except ValueError:
            continue
        found[record.key] = record
    return list(found.values())


def diagnosed(case: Case) -> Record:
    """The record of one case."""
    words = {"key": case.key, "kind": case.kind, "subject": case.subject, "planted": case.faults}
    try:
        subject = make(case)
    except ValueError as error:
        return record_of(words | {"causes": (), "told": (), "carried": False, "error": one_line(error)})
    start = time.perf_counter()
    try:
        said = told_by(examine(subject, budget=BUDGET))
    except Exception as error:  # a crash of ours is a result of the benchmark, not its end
        return record_of(words | {"causes": (), "told": (), "error": f"{type(error).__name__}: {one_line(error)}"})
    return record_of(words | said | {"seconds": time.perf_counter() - start})


def told_by(diagnosis: Diagnosis) -> dict[str, object]:
    """What a record keeps of a diagnosis."""
    causes = [asdict(Named(id=each.id, role=each.role, confirmed=each.confirmed)) for each in diagnosis.causes]
    beside = [*(each.id for each in diagnosis.deviations), *(each.fault.id for each in diagnosis.explanations)]
    return {"causes": causes, "told": beside}


def one_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).partition("\n")[0]


def figures(records: Sequence[Record]) -> dict[str, object]:
    """Every figure of these records, as plain JSON."""
    median, low, high = seconds_per_diagnosis(records)
    return {
        "shares": [
            {"what": s.what, "hits": s.hits, "of": s.of, "interval": s.interval, "missed": s.missed}
            for s in shares(records)
        ],
        "seconds": {"median": median, "p5": low, "p95": high},
        "crashed": [record.key for record in records if record.carried and record.error],
    }


def write(folder: Path, halves: dict[str, list[Record]], page: Path | None) -> None:
    """The figures of each half as JSON, and the confusion matrix of all records as Markdown."""
    (folder / "figures.json").write_text(
        json.dumps({name: figures(records) for name, records in halves.items()}, indent=1) + "\n", "utf-8"
    )
    matrix = confusion([record for records in halves.values() for record in records])
    for path in (folder / "confusion.md", *([page] if page else [])):
        path.write_text(matrix, "utf-8")
