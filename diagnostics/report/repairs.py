"""The way of repairs: in which order, what the losses do on the way, and what holds at its end."""

from collections.abc import Iterator
from itertools import pairwise

from diagnostics.diagnosis import Diagnosis, PathStep
from diagnostics.report.parts import Entry, Section, Table
from diagnostics.report.words import (
    count,
    listed,
    number,
    optional,
    percent,
    seeds,
    sentence,
    values,
)

WORTH_TELLING = 0.1  # of the honest loss: a smaller rise between two steps is not spoken of
WORTH_A_SHARE = 0.01  # a smaller share of the loss of one batch is not told
NAMED_RUNS = 6  # runs that were left out: more are counted


def steps(diagnosis: Diagnosis) -> Iterator[Entry]:
    """The repairs in order, each with what to do."""
    faults = {finding.fault.id: finding.fault for finding in diagnosis.findings}
    for name in diagnosis.repair_order:
        yield Entry(title=sentence(faults[name].card.sections["Remedy"]), fault=name)


def way(diagnosis: Diagnosis) -> Section:
    """Both losses after each repair, everything before it repaired too, and what came to light there."""
    if not diagnosis.path:
        return Section(name="path", title="")
    caption = (
        "One batch: its training loss, nats per token. Honest: loss on new text, each token predicted from what stands "
        f"before it, {honest_unit(diagnosis)}. Means over {seeds(diagnosis.seeds)}"
    )
    columns: tuple[str, ...] = ("Repaired so far", "One batch", "Honest", "What came to light")
    rows = tuple(map(_row, range(len(diagnosis.path)), diagnosis.path))
    if not any(step.reveals for step in diagnosis.path):
        columns, rows = columns[:-1], tuple(row[:-1] for row in rows)
    return Section(
        name="path",
        title="What each repair does on the way",
        paragraphs=tuple(_on_the_way(diagnosis)),
        tables=(Table(caption=caption, columns=columns, rows=rows),),
    )


def honest_unit(diagnosis: Diagnosis) -> str:
    """The unit of the honest losses on the path: bits per byte where there is text, otherwise nats per token."""
    fresh = [run.outcome for run in diagnosis.runs if run.outcome.regime == "fresh batches"]
    return "bits per byte" if any(outcome.bits_per_byte is not None for outcome in fresh) else "nats per token"


def _row(place: int, step: PathStep) -> tuple[str, ...]:
    """A line of the table; ``place`` 1 is the first repair."""
    name = "nothing" if step.repaired is None else step.repaired if place == 1 else f"+ {step.repaired}"
    revealed = listed(step.reveals) if step.reveals else "nothing new"
    return name, optional(step.one_batch), optional(step.honest), revealed


def _on_the_way(diagnosis: Diagnosis) -> Iterator[str]:
    """Where a repair makes the honest loss worse before the next ones make it better, and how the loss is shared."""
    unit = honest_unit(diagnosis)
    for before, after in pairwise(diagnosis.path):
        if before.honest is None or after.honest is None or after.honest <= (1 + WORTH_TELLING) * before.honest:
            continue
        yield (
            f"Repairing {after.repaired} makes the honest loss worse at first, from {number(before.honest)} to "
            f"{number(after.honest)} {unit}: it uncovers what the next repairs mend. Whoever stops there, or takes it "
            "back for that reason, keeps the other causes."
        )
    if told := [f"{name} {percent(share)}" for name, share in shares(diagnosis)]:
        yield (
            "The causes interact: what a repair takes away depends on what is repaired before it. Averaged over orders "
            f"(as the first repair and as the last one), of the loss of one batch: {listed(told)}."
        )


def shares(diagnosis: Diagnosis) -> tuple[tuple[str, float], ...]:
    """Confirmed causes that take a whole per cent of the loss of one batch away, and how much; the largest first.

    Empty where fewer than two were measured: a single cause has no order.
    """
    measured = [(cause.id, cause.share) for cause in diagnosis.confirmed if cause.share is not None]
    large = [(name, share) for name, share in measured if share >= WORTH_A_SHARE]
    return tuple(sorted(large, key=lambda pair: -pair[1])) if len(measured) > 1 else ()


def after(diagnosis: Diagnosis) -> Section:
    """What holds after the repairs, or as it stands where nothing is to be repaired."""
    rows = tuple(
        (
            each.claim,
            values(each.values),
            f"{number(each.bound)} {each.unit} ({each.bound_is})",
            "reached" if each.reached else "missed" if each.required else "not reached; told because it explains",
        )
        for each in diagnosis.milestones
    )
    columns = ("Claim", "Per seed", "Must be below", "Outcome")
    table = Table(caption=f"Measured over {seeds(diagnosis.seeds)}", columns=columns, rows=rows)
    title = "What holds after the repairs" if diagnosis.repair_order else "What holds as it stands"
    return Section(name="after", title=title, tables=(table,) if rows else ())


def left_out(diagnosis: Diagnosis) -> Section:
    """Training runs that were planned and not made for want of time."""
    runs = diagnosis.left_out
    named, more = runs[:NAMED_RUNS], len(runs) - NAMED_RUNS
    rest = f"; and {count(more, 'other')} (left_out in diagnosis.json)" if more > 0 else ""
    told = (
        "The time allowed was not enough for these training runs, the least telling ones: "
        f"{'; '.join(named)}{rest}. A fault that is suspected above may be confirmed with more time (Budget.seconds)."
    )
    title = f"Left out for want of time: {len(runs)}"
    return Section(name="left-out", title=title, paragraphs=(told,) if runs else ())
