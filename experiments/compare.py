"""Runs beside each other: what differs in their settings, what they came to, where their curves part.

    frames = load_runs("runs/base", "runs/warm")   # pandas frames: a row per run, a row per line logged
    comparison = compare(frames)                   # what the command says, as plain data

Nothing here depends on where runs lie: a record, a W&B offline directory and a W&B server give the same frames.
"""

import io
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd

from experiments.condition import Condition
from experiments.config import settings as settings_of_ours
from experiments.contrast import Contrast, contrast
from experiments.parting import Parting, parting
from experiments.record import write_text
from experiments.run import AXES, Run, larger_is_better, shown
from experiments.runs import Found, local_runs, ranked_by
from experiments.settings import did_you_mean

By = Literal["best", "last"]
Axis = Literal["tokens", "step", "seconds"]
LABEL_SETTINGS = 4  # a run whose name would need more is numbered
MOST_CONTRASTS = 20  # groups that are told against the baseline: of more, the best
SEED = "seed"
MANY = 5  # comparisons from which on it is said that chance alone finds some
NOT_DECIDING = ("name", "track.")
"""Settings that say where a run is filed, not what it computes."""


class Frames(NamedTuple):
    """Runs as pandas frames.

    Args:
        runs: a row per run, by its label; columns of two levels: `about` (where, id, state, began, steps), `config`
            (every setting; None where a run has no such setting), `best` and `last` (every metric).
        curves: a row per line logged: `run`, `step`, `tokens`, `seconds`, and every metric.
        left_out: a line for each run in a folder that cannot be read.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    left_out: tuple[str, ...] = ()


def load_runs(*sources: str | Path) -> Frames:
    """Runs as pandas frames, in the order of the sources; in a folder of runs, in the order of their paths.

    Args:
        sources: each a record, a folder of them, a W&B offline directory, or a W&B path (ENTITY/PROJECT/ID;
            ENTITY/PROJECT?group=NAME and other filters).
    Raises:
        ValueError: a source that is none of these, or cannot be read.
    """
    found = [found_at(source) for source in sources]
    runs = list({run.where: run for each in found for run in each.runs}.values())
    if not runs:
        raise ValueError("there is no run to compare; name a record, a folder of records or a W&B path")
    frame = runs_frame(runs)
    return Frames(frame, curves_frame(runs, frame.index), tuple(line for each in found for line in each.left_out))


def found_at(source: str | Path) -> Found:
    """The runs at a place on disk or at a W&B path; raises ValueError where it is neither."""
    if Path(source).exists():
        return local_runs(Path(source))
    from experiments.tracking import has_login
    from experiments.wandb_runs import is_server_path, server_runs

    if not isinstance(source, str) or not is_server_path(source):
        raise ValueError(f"{source} does not exist")
    if not has_login():
        raise ValueError(f"{source} does not exist; as a W&B path it needs a login: set WANDB_API_KEY or `wandb login`")
    return server_runs(source)


def runs_frame(runs: Sequence[Run], metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """A row per run; see `Frames`.

    Args:
        metrics: which results to give; None: every metric.
    """
    names = in_order({name for run in runs for name in run.config})
    measured = sorted({name for run in runs for name in run.metrics}) if metrics is None else metrics
    columns: dict[tuple[str, str], Any] = {
        ("about", "where"): [run.where for run in runs],
        ("about", "id"): [run.id for run in runs],
        ("about", "state"): [run.state for run in runs],
        ("about", "began"): [datetime.fromtimestamp(run.began, UTC) for run in runs],
        ("about", "steps"): [run.steps for run in runs],
    }
    columns |= {("config", name): pd.Series([run.config.get(name) for run in runs], dtype=object) for name in names}
    columns |= {("best", name): [run.best(name) for run in runs] for name in measured}
    columns |= {("last", name): [run.logged.last.get(name, math.nan) for run in runs] for name in measured}
    frame = pd.DataFrame(columns)
    config = config_of(frame)
    told = labels([run.name for run in runs], config.loc[:, differing(config)])
    frame.index = pd.Index(np.array(told, dtype=object), name="run")
    return frame


def in_order(names: set[str]) -> list[str]:
    """Settings in the order of our own tree, then others by name: W&B's server keeps none."""
    ours = [each.name for each in settings_of_ours() if each.name in names]
    return [*ours, *sorted(names.difference(ours))]


def curves_frame(runs: Sequence[Run], index: pd.Index) -> pd.DataFrame:
    """A row per line logged; see `Frames`. `index` holds the label of each run."""
    lengths = [len(run.logged) for run in runs]
    names = {name for run in runs for name in run.logged.columns}
    ordered = [*(name for name in AXES if name in names), *sorted(names - set(AXES))]
    runs_of_rows = pd.Categorical.from_codes(np.repeat(np.arange(len(runs)), lengths), categories=index)
    columns: dict[str, Any] = {"run": runs_of_rows}
    for name in ordered:
        parts = [
            run.logged.columns.get(name, np.full(length, math.nan)) for run, length in zip(runs, lengths, strict=True)
        ]
        columns[name] = np.concatenate(parts)
    return pd.DataFrame(columns)


def labels(names: Sequence[str], settings: pd.DataFrame) -> list[str]:
    """A name for each run that no other has: its own, or what sets it apart, or a number.

    >>> labels(["small", "small"], pd.DataFrame({"optim.lr": [0.1, 0.2]}))
    ['lr=0.1', 'lr=0.2']
    """
    if len(set(names)) == len(names):
        return list(names)
    shared = len(set(names)) == 1
    settings = settings if settings.shape[1] <= LABEL_SETTINGS else settings.iloc[:, :0]
    ordered = sorted(map(str, settings.columns), key=lambda name: "." not in name)  # what repeats a run comes last
    settings, short = settings[ordered], short_names(ordered)
    rows = settings.itertuples(index=False, name=None)
    told = [" ".join(f"{name}={shown(value)}" for name, value in zip(short, row, strict=True)) for row in rows]
    if not ordered:
        return list(numbered(names))
    return list(numbered(told if shared else [f"{name} ({text})" for name, text in zip(names, told, strict=True)]))


def numbered(texts: Sequence[str]) -> Iterator[str]:
    """The texts, with a number after each that comes more than once.

    >>> list(numbered(["a", "b", "a"]))
    ['a #1', 'b', 'a #2']
    """
    counts, seen = Counter(texts), Counter[str]()
    for text in texts:
        seen[text] += 1
        yield text if counts[text] == 1 else f"{text} #{seen[text]}"


def short_names(names: Iterable[str]) -> list[str]:
    """Settings without their sections, where that leaves no doubt.

    >>> short_names(["optim.lr", "model.norm", "grad.norm"])
    ['lr', 'model.norm', 'grad.norm']
    """
    names = list(names)
    counts = Counter(name.rpartition(".")[2] for name in names)
    return [last if counts[last := name.rpartition(".")[2]] == 1 else name for name in names]


def differing(config: pd.DataFrame) -> list[str]:
    """The settings that are not the same in every run, without those that only say where a run is filed."""
    names = [str(name) for name in config]
    return [name for name in names if not name.startswith(NOT_DECIDING) and len(set(config[name])) > 1]


def config_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The settings of a frame of runs; a frame without columns where the runs have none."""
    return cast(pd.DataFrame, runs["config"]) if "config" in runs else pd.DataFrame(index=runs.index)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs compared by one metric.

    Args:
        metric: what runs are judged by; `curve` is the metric whose curves are followed.
        by: its best or its last value.
        over: the setting that only repeats a run, such as the seed.
        baseline: the group that the others are told against.
        differing: the settings in which runs differ, that of `over` last.
        settings: these settings, a row per run.
        results: a row per run: its group, state and steps, and the best and last value of the metric.
        groups: a row per group: how many runs, their mean, spread (standard deviation), lowest and highest.
        notes: what to bear in mind, a sentence each.
    """

    frames: Frames
    metric: str
    curve: str
    by: By
    over: str
    axis: Axis
    baseline: str
    differing: tuple[str, ...]
    settings: pd.DataFrame
    results: pd.DataFrame
    groups: pd.DataFrame
    contrasts: tuple[Contrast, ...]
    partings: tuple[Parting, ...]
    notes: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """Only what differs in the settings beside the results; columns of two levels: `config` and `result`."""
        return pd.concat({"config": self.settings, "result": self.results}, axis=1)


def compare(
    frames: Frames,
    *,
    metric: str | None = None,
    by: By = "best",
    over: str = SEED,
    axis: Axis = "tokens",
    baseline: str | None = None,
) -> Comparison:
    """Runs compared: see `Comparison`.

    Args:
        metric: None: val/bits_per_byte, else val/loss, else train/loss, whichever most runs have.
        axis: what curves are aligned on.
        baseline: a run, a group, or the place of a run; None: the first run's group.
    Raises:
        ValueError: a metric, setting, axis or baseline that is not there.
    """
    metric = _known_metric(frames, metric)
    _refuse_missing_axis(frames, axis)
    config = config_of(frames.runs)
    _refuse_unknown_setting(config, over)
    names = sorted(differing(config), key=lambda name: name == over)  # what repeats a run comes last
    deciding = config.loc[:, [name for name in names if name != over]]
    group = grouped(config, deciding)
    results = _results(frames.runs, group, metric)
    groups = _groups(results, by)
    reference = _baseline(baseline, frames.runs, group)
    told = _told(groups, reference, metric)
    curve = "train/loss" if metric.startswith("val/") and "train/loss" in frames.curves else metric
    seeds = config[over] if over in config else pd.Series(range(len(config)), index=config.index)
    values = {each: _by_seed(results, seeds, each, by) for each in (reference, *told)}
    contrasts = tuple(
        contrast(each, values[each], reference, values[reference], metric=metric)
        for each in told
        if values[each] and values[reference]
    )
    return Comparison(
        frames=frames,
        metric=metric,
        curve=curve,
        by=by,
        over=over,
        axis=axis,
        baseline=reference,
        differing=tuple(names),
        settings=config.loc[:, names],
        results=results,
        groups=groups,
        contrasts=contrasts,
        partings=tuple(parting(each, reference, frames.curves, group, deciding, curve, axis) for each in told),
        notes=tuple(_notes(frames.left_out, results, names, metric, by, contrasts, len(told))),
    )


def grouped(config: pd.DataFrame, settings: pd.DataFrame) -> pd.Series:
    """The group of each run, by its label: runs that differ in none of `settings` are one group."""
    keys = list(settings.itertuples(index=False, name=None)) if settings.shape[1] else [()] * len(settings)
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    places = sorted(first.values())
    names: dict[Hashable, set[str]] = {}
    for key, name in zip(keys, config["name"] if "name" in config else ["runs"] * len(keys), strict=True):
        names.setdefault(key, set()).add(str(name))
    common = [next(iter(each)) if len(each := names[keys[place]]) == 1 else "runs" for place in places]
    told = labels(common, settings.iloc[places])
    label = {keys[place]: text for place, text in zip(places, told, strict=True)}
    return pd.Series([label[key] for key in keys], index=config.index, name="group")


def failures(comparison: Comparison, condition: Condition) -> list[str]:
    """A line for each group but the baseline for which the condition holds, or that cannot be judged.

    A group counts by the mean over its runs. A result that is missing or no number is a failure: a check must not pass
    because a run went astray.

    Raises:
        ValueError: the condition needs a baseline and there is nothing besides it, or the baseline lacks the metric.
    """
    results = {name: _result(comparison, name) for name in condition.metrics}
    baseline = {name: float(result[comparison.baseline]) for name, result in results.items()}
    others = [group for group in comparison.groups.index if group != comparison.baseline]
    if condition.needs_baseline and not others:
        raise ValueError(f"the condition {condition.text!r} needs a run besides the baseline {comparison.baseline}")
    for name, value in baseline.items() if condition.needs_baseline else ():
        if not math.isfinite(value):
            raise ValueError(f"the baseline {comparison.baseline} has no finite {name} ({value:g})")
    lines = []
    for group in others or [comparison.baseline]:
        values = {name: float(result[group]) for name, result in results.items()}
        if not all(map(math.isfinite, values.values())) or condition.holds(values, baseline):
            beside = f"; {comparison.baseline}: {_figures(baseline)}" if others else ""
            lines.append(f"{group}: {_figures(values)}{beside}")
    return lines


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """A frame of runs as CSV, or as Parquet where the name of the file ends so; settings as they are typed.

    Raises:
        ValueError: the file cannot be written, its name ends otherwise, or pyarrow, which writes Parquet, is not there.
    """
    flat = frame.copy()
    if isinstance(flat.columns, pd.MultiIndex):
        taken = set(frame["about"])
        flat = flat.set_axis([_flat_name(column[0], column[1], taken) for column in frame.columns], axis=1)
    for name in [name for name in flat if pd.api.types.is_object_dtype(flat[name])]:
        flat[name] = [None if value is None else shown(value) for value in flat[name]]
    if path.suffix == ".csv":
        write_text(path, flat.to_csv())
    elif path.suffix == ".parquet":
        _write_parquet(flat, path)
    else:
        raise ValueError(f"{path} must end in .csv or .parquet")


def _flat_name(kind: str, name: str, taken: set[str]) -> str:
    """One name for a column of two levels: results say which value they are, settings give way to what we say."""
    if kind in ("best", "last"):
        return f"{kind} {name}"
    return f"config.{name}" if kind == "config" and name in taken else name


def _write_parquet(frame: pd.DataFrame, path: Path) -> None:
    content = io.BytesIO()
    try:
        frame.to_parquet(content)
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow: python -m pip install pyarrow; or write a .csv") from error
    try:
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error


def _known_metric(frames: Frames, metric: str | None) -> str:
    known = [str(name) for name in frames.curves if name not in ("run", *AXES)]
    if metric is None:
        return ranked_by({name: int(frames.runs["best"][name].notna().sum()) for name in known})
    if metric not in known:
        raise ValueError(f"no run measured {metric!r}{did_you_mean(metric, known)}")
    return metric


def _refuse_missing_axis(frames: Frames, axis: Axis) -> None:
    if axis not in frames.curves or frames.curves[axis].isna().all():
        there = [name for name in AXES if name in frames.curves]
        raise ValueError(f"no run logged {axis}; align on one of: {', '.join(there)}")


def _refuse_unknown_setting(config: pd.DataFrame, over: str) -> None:
    """Runs of others may have no seed; any other setting that is asked for must be there."""
    if over not in config and over != SEED:
        raise ValueError(f"no run has a setting {over!r} to group over{did_you_mean(over, map(str, config))}")


def _baseline(wished: str | None, runs: pd.DataFrame, group: pd.Series) -> str:
    """The group that is meant by a run, a group or a place."""
    if wished is None:
        return str(group.iloc[0])
    if wished in set(group):
        return wished
    places = [Path(where).resolve() for where in runs["about"]["where"]]
    at = [wished == label or Path(wished).resolve() == place for label, place in zip(runs.index, places, strict=True)]
    if not any(at):
        raise ValueError(f"no run or group {wished!r} to compare with{did_you_mean(wished, dict.fromkeys(group))}")
    return str(group[at].iloc[0])


def _results(runs: pd.DataFrame, group: pd.Series, metric: str) -> pd.DataFrame:
    about = runs["about"][["state", "steps"]]
    return pd.concat([group, about, *(runs[by][metric].rename(by) for by in ("best", "last"))], axis=1)


def _groups(results: pd.DataFrame, by: By) -> pd.DataFrame:
    values = results.groupby("group", sort=False)[by]
    found = values.agg(["size", "mean", "std", "min", "max"])
    return found.rename(columns={"size": "runs", "std": "spread", "min": "lowest", "max": "highest"})


def _told(groups: pd.DataFrame, baseline: str, metric: str) -> list[str]:
    """The groups that are told against the baseline: all, or the best of many; in the order of the runs."""
    others = groups["mean"].drop(baseline)
    ranked = others.sort_values(ascending=not larger_is_better(metric)).index[:MOST_CONTRASTS]
    return [str(each) for each in others.index if each in set(ranked)]


def _by_seed(results: pd.DataFrame, seeds: pd.Series, group: str, by: By) -> Mapping[Hashable, float]:
    """Seed -> result of a group; a seed that was run twice counts with its mean."""
    rows = results["group"] == group
    values = pd.DataFrame({"seed": [shown(seed) for seed in seeds[rows]], "value": results.loc[rows, by].to_numpy()})
    return dict(values.dropna().groupby("seed", sort=False)["value"].mean())


def _result(comparison: Comparison, metric: str) -> pd.Series:
    """The mean of a metric by group; not a number where a run of the group has none, or ended in none."""
    best, last = (comparison.frames.runs[kind][metric] for kind in ("best", "last"))
    values = (best if comparison.by == "best" else last).where(np.isfinite(last))
    return values.groupby(comparison.results["group"]).agg(lambda group: group.mean(skipna=False))


def _figures(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _notes(
    left_out: Sequence[str],
    results: pd.DataFrame,
    names: Sequence[str],
    metric: str,
    by: By,
    contrasts: Sequence[Contrast],
    told: int,
) -> Iterator[str]:
    """What to bear in mind; `told` is how many groups are told against the baseline."""
    for line in left_out:
        yield f"left out: {line}"
    unfinished = Counter(results["state"][results["state"] != "finished"])
    if unfinished:
        states = ", ".join(f"{count} {state}" for state, count in unfinished.items())
        yield f"not every run is finished ({states} of {len(results)}): each counts up to its last row"
    if by == "best" and results["steps"].nunique() > 1:
        low, high = results["steps"].min(), results["steps"].max()
        yield f"the runs end at steps {low:,} to {high:,}: the best of a longer run had more chances"
    astray = list(results.index[results["best"].notna() & ~np.isfinite(results["last"])])
    if astray:
        yield f"{len(astray)} runs ended with a {metric} that is no number, among them {astray[0]}"
    without = int(results["best"].isna().sum())
    if without:
        yield f"{without} of {len(results)} runs have no {metric} yet and count nowhere"
    if metric.endswith("loss") and any(name.startswith(("tokenizer.", "corpus.")) for name in names):
        yield f"{metric} is per token: between different tokenizers or texts compare val/bits_per_byte"
    tested = sum(each.kind != "too few" for each in contrasts)
    if tested >= MANY:
        yield f"of {tested} comparisons about one in twenty finds a difference where there is none"
    untold = results["group"].nunique() - 1 - told  # and the baseline
    if untold:
        yield f"{untold:,} more groups are not told against the baseline; the table has them all"
