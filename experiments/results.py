"""Where a diagnosis goes: report, data and pictures on disk first, then everything to the tracker.

The tracker gets the loss of the standing run, the pictures, tables of every measurement, cause, trial and verdict, the
report and the data as artifacts; and beside it, in the same group, the deciding trials as runs of their own.
"""

import csv
import json
import statistics
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from diagnostics.diagnosis import Cause, Diagnosis, to_json
from diagnostics.probe import Reading
from diagnostics.report import markdown
from diagnostics.trial import Outcome, Trial
from experiments.config import RunConfig, override
from experiments.page import page
from experiments.pictures import Picture, pictures, png
from experiments.record import RunRecord, write_text
from experiments.tracking import Say, ShortRun, Tracker, open_tracker, track_group

Row = list[Any]
TRIAL_RUNS = 24  # at most: each costs the tracker up to a second
TABLES = {
    "causes": ("fault", "role", "because", "share"),
    "measurements": ("probe", "field", "value", "text", "seed", "repaired"),
    "trials": ("fault", "question", "quantity", "regime", "seed", "before", "after", "placebo"),
    "verdicts": ("fault", "grade", "status", "because"),
    "repair-path": ("repaired", "one batch", "honest", "reveals"),
}


def write_report(found: Diagnosis, config: RunConfig, record: RunRecord | None, folder: Path, *, say: Say) -> None:
    """The files of a diagnosis, and its run in Weights & Biases.

    Args:
        record: of the run that was diagnosed, where there is one.
        say: takes one line for people.
    """
    drawn = pictures(found)
    write_text(folder / "diagnosis.json", json.dumps(to_json(found), indent=1) + "\n")
    write_text(folder / "report.md", markdown(found))
    write_text(folder / "report.html", page(found, drawn, extras=said_by(record) if record else {}))
    group = config.track.group or folder.resolve().name
    tracked = override(config, {"track.job_type": "diagnose", "track.group": group})
    with open_tracker(tracked, folder, say=say) as tracker:
        tell(found, drawn, tracker)
        tracker.file(folder / "report.html", kind="report")
        tracker.file(folder / "diagnosis.json", kind="diagnosis")
        if record is not None:
            tracker.file(record.tokenizer_path, kind="tokenizer")
            tracker.file(record.checkpoint_path, kind="checkpoint")
    runs = trial_runs(found)
    told = track_group(override(tracked, {"track.job_type": "trial"}), folder, runs[:TRIAL_RUNS], say=say)
    if told:
        left = f"; {len(runs) - told} more stand in diagnosis.json only" if told < len(runs) else ""
        say(f"W&B: {told} sides of trials beside it, as runs of the group {group}{left}")


def said_by(record: RunRecord) -> dict[str, str]:
    """What the standing run wrote in the end, for the page."""
    sample = record.folder / "tables" / "sample.csv"
    if not sample.exists():
        return {}
    with sample.open(newline="") as file:
        _, (text,) = csv.reader(file)
    return {"What the run writes, after a prompt of one context": text}


def tell(found: Diagnosis, drawn: Sequence[Picture], tracker: Tracker) -> None:
    """The standing run's curve, every picture and every table."""
    for step, loss in enumerate(found.history, start=1):
        tracker.log({"step": step, "train/loss": loss})
    for picture in drawn:
        tracker.picture(picture.name, png(picture.figure))
    for name, rows in tables(found).items():
        if rows:
            tracker.table(name, TABLES[name], rows)


def tables(found: Diagnosis) -> dict[str, list[Row]]:
    """Every table by name; its columns stand in TABLES."""
    causes = (*found.causes, *found.deviations)
    return {
        "causes": [[cause.id, cause.role, cause.because, cause.share] for cause in causes],
        "measurements": [row for reading in found.readings for row in measurement_rows(reading)],
        "trials": [row for cause in causes for trial in cause.trials for row in trial_rows(cause, trial)],
        "verdicts": [[f.fault.id, f.fault.grade, f.verdict.status, f.verdict.because] for f in found.findings],
        "repair-path": [
            [step.repaired or "nothing", step.one_batch, step.honest, ", ".join(step.reveals)] for step in found.path
        ],
    }


def measurement_rows(reading: Reading) -> Iterator[Row]:
    """A row for every fact that a probe measured; a reading without any says why."""
    facts = list(leaves(to_json(reading.measurement))) if reading.measurement is not None else []
    for field, value in facts or [("nothing was measured", reading.reason)]:
        number = float(value) if isinstance(value, int | float) else None
        text = None if number is not None or value is None else str(value)
        yield [reading.probe, field, number, text, reading.seed, ", ".join(reading.repaired)]


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value inside a JSON value, with where it stands: ("modules[0].norm", 0.5).

    >>> list(leaves({"rows": 7, "depth": [["head", 0.5]]}))
    [('rows', 7), ('depth[0][0]', 'head'), ('depth[0][1]', 0.5)]
    """
    if isinstance(value, dict):
        for name, each in value.items():
            yield from leaves(each, f"{at}.{name}" if at else name)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from leaves(each, f"{at}[{index}]")
    else:
        yield at, value


def trial_rows(cause: Cause, trial: Trial) -> Iterator[Row]:
    """A row for each seed of a trial."""
    for seed, before, after, sham in zip_longest(trial.seeds, trial.before, trial.after, trial.sham):
        losses = [to_json(loss) for loss in (before, after, sham)]
        yield [cause.id, trial.question, trial.quantity, trial.regime, seed, *losses]


def trial_runs(found: Diagnosis) -> list[ShortRun]:
    """Both sides of every deciding trial as runs, those of the causes first; a side that several share comes once."""
    sides: dict[tuple[frozenset[str], str], ShortRun] = {}
    for cause in (*found.causes, *found.deviations):
        for trial in cause.trials[:1]:
            before = frozenset(trial.repaired)
            for side, repaired in (("before", before), ("after", before | {cause.id})):
                outcomes = found.outcomes(repaired, trial.regime)
                if any(outcome.curve for outcome in outcomes):
                    run = short_run(cause, trial, side, repaired, outcomes)
                    sides.setdefault((repaired, trial.regime), run)
    return list(sides.values())


def short_run(cause: Cause, trial: Trial, side: str, repaired: frozenset[str], outcomes: Sequence[Outcome]) -> ShortRun:
    """One side of a trial: its mean curve and that of each seed, and what the trial came to."""
    about = {
        "fault": cause.id,
        "role": cause.role,
        "side": side,
        "repaired": sorted(repaired),
        "regime": trial.regime,
        "seed": [outcome.seed for outcome in outcomes],
        "question": trial.question,
        "quantity": trial.quantity,
        "effect": to_json(trial.effect),
        "share": to_json(trial.share),
        "confirms": trial.confirms,
    }
    name = " + ".join(sorted(repaired)) if len(repaired) < 3 else f"{len(repaired)} repairs, {side} {cause.id}"
    return ShortRun(
        name=f"{name or 'nothing repaired'} ({trial.regime})", config=about, rows=list(curve_rows(outcomes))
    )


def curve_rows(outcomes: Sequence[Outcome]) -> Iterator[dict[str, int | float]]:
    """Per step the loss of each seed that is still training, and their mean."""
    curves = {f"train/loss/seed_{outcome.seed}": outcome.curve for outcome in outcomes if outcome.curve}
    for step in range(max(map(len, curves.values()), default=0)):
        losses = {name: curve[step] for name, curve in curves.items() if step < len(curve)}
        yield {"step": step + 1, "train/loss": statistics.fmean(losses.values()), **losses}
