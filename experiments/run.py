"""One run in memory, wherever it lies: a record on disk, a W&B offline directory, a W&B server.

Every kind is turned into the same plain value, so that a comparison cannot depend on where its runs came from.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.record import Standing

Column = npt.NDArray[np.float64]
Value = bool | int | float | str | tuple[Any, ...] | None

AXES = ("step", "tokens", "seconds")
AXIS_NAMES = frozenset(AXES)
BEST_KNOWN = ("val/bits_per_byte", "val/loss", "train/loss")
"""Metrics that a run is judged by unless told otherwise, the first that is there."""

LARGER_IS_BETTER = ("acc", "accuracy", "auc", "bleu", "f1", "reward", "score")
UNITS = {"val/bits_per_byte": "bits/byte", "val/loss": "nats/token", "train/loss": "nats/token", "val/bleu": "BLEU"}


@dataclass(frozen=True, eq=False)
class Logged:
    """The numbers of a run.

    Args:
        columns: metric -> a number for each row, NaN where a row has none; first `step`, `tokens` and `seconds`, which
            say when, then the metrics in the order of their names.
        last: metric -> the last number logged, NaN where that was none: the run had gone astray.
    """

    columns: Mapping[str, Column]
    last: Mapping[str, float]

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "Logged":
        """Rows as columns; rows without any metric are left out.

        >>> Logged.of([{"step": 2, "b": 3.5}, {"step": 3}]).columns
        {'step': array([2.]), 'b': array([3.5])}
        """
        kept = [row for row in rows if not row.keys() <= AXIS_NAMES]
        last = {name: value for row in kept for name, value in row.items()}
        ordered = [*(name for name in AXES if name in last), *sorted(last.keys() - AXIS_NAMES)]
        columns = {name: np.array([row.get(name, math.nan) for row in kept], dtype=np.float64) for name in ordered}
        return cls(columns, {name: float(last[name]) for name in ordered})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def numbers(self, metric: str) -> Column:
        """What was measured of a metric, without the rows that have none."""
        column = self.columns.get(metric, NOTHING)
        return column[~np.isnan(column)]


NOTHING: Column = np.empty(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a run was, how it stands, and what it logged.

    Args:
        name: as its configuration says.
        id: tells it from other runs of the same place.
        where: the folder, or the W&B path.
        began: seconds since 1970.
        last_written: of its last numbers, seconds since 1970.
        config: dotted names to plain values.
    """

    name: str
    id: str
    where: str
    state: Standing
    began: float
    last_written: float
    config: Mapping[str, Value]
    logged: Logged

    @property
    def metrics(self) -> tuple[str, ...]:
        """Everything that was measured, without what only says when."""
        return tuple(name for name in self.logged.columns if name not in AXIS_NAMES)

    @property
    def steps(self) -> int:
        """The last step logged; 0 where nothing was."""
        return int(self.logged.numbers("step").max(initial=0))

    def best(self, metric: str) -> float:
        """The best value of a metric; NaN where none was logged."""
        values = self.logged.numbers(metric)
        if not len(values):
            return math.nan
        return float(values.max() if larger_is_better(metric) else values.min())


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Value]:
    """Nested settings as dotted names and plain values; lists become tuples, names that begin with "_" are left out.

    >>> flat({"optim": {"lr": 0.1, "betas": [0.9, 0.95]}, "_wandb": {}})
    {'optim.lr': 0.1, 'optim.betas': (0.9, 0.95)}
    """
    found: dict[str, Value] = {}
    for name, value in tree.items():
        if name.startswith("_"):
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = _plain(value)
    return found


def larger_is_better(metric: str) -> bool:
    """Whether more of a metric is better, read off its name: accuracies and scores, not losses.

    >>> larger_is_better("val/bleu"), larger_is_better("val/loss")
    (True, False)
    """
    return any(word in LARGER_IS_BETTER for word in metric.lower().replace("/", "_").split("_"))


def unit(metric: str) -> str:
    """The unit of a metric; its own name where it has none that we know."""
    return UNITS.get(metric, f"of {metric}")


def shown(value: Value) -> str:
    """A setting as it is typed on a command line.

    >>> shown(0.001), shown((0.9, 0.95)), shown(None), shown(True)
    ('0.001', '0.9,0.95', 'none', 'true')
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(shown(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Value:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(each) for each in value)
    return json.dumps(value) if isinstance(value, Mapping) else value
