"""Probes measure: a named way of taking typed facts from a bench."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from diagnostics.bench import Bench, open_bench
from diagnostics.subject import Subject

Measurement = Any
"""A frozen dataclass of typed facts with units: plain numbers, strings and tuples, no tensors, no opinion."""

Progress = Callable[[str, int, int], None]
"""Hears of long work: what is going on, done, of how many."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A named way of measuring.

    Args:
        name: what reports and tests call it; the file name with hyphens.
        question: what it finds out, as one short sentence.
        measure: takes a bench, gives a measurement.
        needs: capabilities of the subject, such as ``"token_view"`` or ``"token_view.next_logits"``.
        cost: "forward" for a few forward and backward passes, "training" where it takes optimizer steps.
        whole_batches: whether it needs batches as the subject gives them; an examination gives other forward probes
            batches of a few rows.
    """

    name: str
    question: str
    measure: Callable[[Bench], Measurement]
    needs: tuple[str, ...] = ()
    cost: Literal["forward", "training"] = "forward"
    whole_batches: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A measurement with its provenance, or the reason why there is none.

    ``repaired`` names the faults that had been repaired in the subject when this was read.
    """

    probe: str
    seed: int
    seconds: float
    measurement: Measurement | None = None
    reason: str | None = None
    repaired: tuple[str, ...] = ()


def read(probe: Probe, subject: Subject, seed: int) -> Reading:
    """The probe's measurement of this subject, or the reason why there is none; never raises for the subject's sake."""
    reason = subject.missing(probe.needs)
    if reason is not None:
        return Reading(probe=probe.name, seed=seed, seconds=0.0, reason=reason)
    start = time.perf_counter()
    measurement = None
    try:
        with open_bench(subject, seed) as bench:
            measurement = probe.measure(bench)
    except Exception as error:  # a stranger's code may raise anything; the examination goes on and says so
        reason = f"the subject raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    seconds = time.perf_counter() - start
    return Reading(probe=probe.name, seed=seed, seconds=seconds, measurement=measurement, reason=reason)
