"""What one looks up: verdicts that name no cause, reference levels, and where every number comes from."""

import math

from diagnostics.diagnosis import Diagnosis, to_json
from diagnostics.probe import Reading
from diagnostics.report.parts import Section, Table
from diagnostics.report.words import count, measured_by, noise, number, sentence, values

LISTED_CHARACTERS = 60  # longer measured texts are cut
LISTED_VALUES = 6  # longer measured lists are counted, not printed


def verdicts(diagnosis: Diagnosis, status: str, title: str, caption: str) -> Section:
    """Every fault with this verdict, and why."""
    findings = diagnosis.verdicts(status)
    rows = tuple((each.fault.id, sentence(each.verdict.because), measured_by(each)) for each in findings)
    table = Table(caption=caption, columns=("Fault", "Because", "Probe"), rows=rows)
    name = "ruled-out" if status == "absent" else status.replace(" ", "-")
    return Section(name=name, title=f"{title}: {len(rows)}", tables=(table,) if rows else ())


def levels(diagnosis: Diagnosis) -> Section:
    """The reference levels, with this run's loss among them."""
    rows = [(level.nats, (level.name, f"{level.nats:.4f}", level.means)) for level in diagnosis.levels]
    if math.isfinite(diagnosis.standing):
        rows.append((diagnosis.standing, ("this run", f"{diagnosis.standing:.4f}", "where its loss stands")))
    ordered = tuple(row for _, row in sorted(rows, key=lambda row: -row[0]))
    caption = "Losses that theory names, counted on this run's own targets"
    table = Table(caption=caption, columns=("Level", "Nats per token", "A loss here means that"), rows=ordered)
    return Section(name="levels", title="Reference levels", tables=(table,) if diagnosis.levels else (), appendix=True)


def evidence(diagnosis: Diagnosis) -> Section:
    """What was measured, by which probe, under which key of diagnosis.json."""
    tables = (_readings(diagnosis), _trials(diagnosis), _failures(diagnosis))
    names = "Every number above stands in diagnosis.json under the key given here."
    cost = f"The examination took {diagnosis.seconds:.0f} s and {count(len(diagnosis.runs), 'training run')}."
    return Section(
        name="evidence",
        title="Evidence: probes, seeds and trials",
        paragraphs=(f"{names} {cost}",),
        tables=tuple(table for table in tables if table.rows),
        appendix=True,
    )


def _readings(diagnosis: Diagnosis) -> Table:
    keyed = [(f"readings[{index}].measurement", reading) for index, reading in enumerate(diagnosis.readings)]
    for index, finding in enumerate(diagnosis.findings):
        if finding.revealed:
            keyed += [(f"findings[{index}].numbers, after the other repairs", each) for each in finding.readings]
    rows = tuple((each.probe, str(each.seed), f"{each.seconds:.2f}", _measured(each), key) for key, each in keyed)
    columns = ("Probe", "Seed", "Seconds", "Measured", "Key")
    return Table(caption="What the probes measured", columns=columns, rows=rows)


def _measured(reading: Reading) -> str:
    if reading.measurement is None:
        return f"nothing: {reading.reason or 'no reason was given'}"
    return _facts(reading.measurement)


def _facts(measurement: object) -> str:
    """The facts of a measurement as "name value, name value"; long lists are counted."""
    plain = to_json(measurement)
    if not isinstance(plain, dict):
        return _fact(plain)
    return ", ".join(f"{name} {_fact(value)}" for name, value in plain.items())


def _fact(value: object) -> str:
    if isinstance(value, list) and (len(value) > LISTED_VALUES or any(isinstance(each, list | dict) for each in value)):
        return f"({count(len(value), 'entry', 'entries')})"
    if isinstance(value, list):
        return f"({', '.join(map(_fact, value))})"
    if isinstance(value, dict):
        return f"({count(len(value), 'entry', 'entries')})"
    if isinstance(value, str):
        return repr(value if len(value) <= LISTED_CHARACTERS else f"{value[:LISTED_CHARACTERS]}...")
    return number(value) if isinstance(value, float) else str(value)


def _trials(diagnosis: Diagnosis) -> Table:
    groups = (("causes", diagnosis.causes), ("deviations", diagnosis.deviations))
    rows = tuple(
        (
            trial.question,
            trial.quantity,
            ", ".join(map(str, trial.seeds)),
            values(trial.before),
            values(trial.after),
            values(trial.sham) if trial.sham else "not run",
            f"{number(trial.effect)} ({noise(trial)})",
            f"{group}[{place}].trials[{index}]",
        )
        for group, causes in groups
        for place, cause in enumerate(causes)
        for index, trial in enumerate(cause.trials)
    )
    columns = ("Question", "Quantity", "Seeds", "Before", "After", "Placebo", "Goes away", "Key")
    return Table(caption="What the trials measured, one value per seed", columns=columns, rows=rows)


def _failures(diagnosis: Diagnosis) -> Table:
    rows = tuple(
        (", ".join(sorted(run.repaired)) or "nothing", run.outcome.regime, str(run.outcome.seed), run.outcome.failure)
        for run in diagnosis.runs
        if run.outcome.failure is not None
    )
    columns = ("Repaired", "Regime", "Seed", "Raised")
    return Table(caption="Training runs that raised an error", columns=columns, rows=rows)
