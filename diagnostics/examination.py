"""The examination: from a subject to a diagnosis. Probes and verdicts, a second look behind them, then trials."""

import statistics
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import torch

from diagnostics.bench import open_bench
from diagnostics.causes import Budget, Trials
from diagnostics.diagnosis import Diagnosis
from diagnostics.fault import Fault, Finding, is_alarm, is_present, not_tested
from diagnostics.faults import CATALOGUE
from diagnostics.levels import (
    ReferenceLevel,
    double_softmax_ceiling,
    double_softmax_floor,
    heldout_unigram,
    levels_of_targets,
    uniform,
    unigram,
)
from diagnostics.probe import Progress, Reading, read
from diagnostics.probes.gradient_norms import GRADIENT_NORMS
from diagnostics.probes.untrained_loss import UNTRAINED_LOSS
from diagnostics.probes.update_ratios import UPDATE_RATIOS
from diagnostics.repair import can_repair, in_repair_order, repaired
from diagnostics.subject import Subject
from diagnostics.trial import first_batches, resting
from diagnostics.watch import watched_loss

DEFAULT_BUDGET = Budget()
LEVEL_BATCHES = 50  # for the token frequencies
EVIDENCE = (UNTRAINED_LOSS, GRADIENT_NORMS, UPDATE_RATIOS)  # read for every report, whatever the faults rest on


def examine(
    subject: Subject,
    *,
    faults: Sequence[Fault] = CATALOGUE,
    budget: Budget = DEFAULT_BUDGET,
    progress: Progress = lambda stage, done, of: None,
) -> Diagnosis:
    """A ranked diagnosis of a training setup, every cause confirmed by removing it where that is possible.

    Args:
        subject: left as it was, by value.
        faults: the catalogue entries to judge.
        progress: called with (what is going on, done, of how many).

    Returns:
        A diagnosis; the same one for the same subject, seeds and budget.
    """
    start = time.perf_counter()
    findings = look(subject, faults, seed=budget.seeds[0], progress=progress)
    trials = Trials(subject, findings, budget, progress)
    causes, deviations = trials.causes()
    repair_order = in_repair_order(cause.finding.fault for cause in causes if cause.confirmed)
    milestones = trials.milestones(frozenset(repair_order))
    levels = reference_levels(subject)
    history = tuple(subject.history.values()) if subject.history else ()
    return Diagnosis(
        subject=subject.name,
        standing=resting(list(history)) if history else loss_as_it_stands(subject),
        history=history,
        levels=levels,
        readings=(*readings_behind(findings), *(read(probe, subject, budget.seeds[0]) for probe in EVIDENCE)),
        findings=findings,
        causes=causes,
        deviations=deviations,
        explanations=tuple(f for f in findings if is_present(f) and f.fault.grade == "explanation"),
        repair_order=repair_order,
        milestones=milestones,
        runs=tuple(trials.runs),
        base=trials.base,
        seeds=budget.seeds,
        seconds=time.perf_counter() - start,
    )


def look(subject: Subject, faults: Sequence[Fault], *, seed: int, progress: Progress) -> tuple[Finding, ...]:
    """Every fault's verdict: from forward passes first, then behind what they find.

    A dead model shows neither a rate that is too high nor a generation that goes wrong. So where the forward probes
    raise an alarm, everything that they find is repaired together, and what was not found yet is looked for again in
    the repaired subject; probes that train are read only there. Without an alarm they are read on the subject itself.
    """
    readings = take_readings(subject, faults, costs=("forward",), seed=seed, progress=progress)
    findings = tuple(judge(fault, readings) for fault in faults)
    alarms = [f.fault for f in findings if is_alarm(f) and can_repair(subject, f.fault)]
    if not alarms:
        readings |= take_readings(subject, faults, costs=("training",), seed=seed, progress=progress)
        return tuple(judge(fault, readings) for fault in faults)
    others = [f.fault for f in findings if not is_present(f) and f.fault.grade != "explanation"]
    behind = take_readings(repaired(subject, alarms), others, seed=seed, progress=progress)
    order = in_repair_order(alarms)
    behind = {name: replace(reading, repaired=order) for name, reading in behind.items()}
    revealed = {fault.id: replace(judge(fault, behind), revealed=True) for fault in others}
    return tuple(_later(first, revealed.get(first.fault.id, first)) for first in findings)


def _later(first: Finding, second: Finding) -> Finding:
    """The second look's finding where it found something, or where the first look could not decide."""
    return second if is_present(second) or first.verdict.status in ("not tested", "unclear") else first


def take_readings(
    subject: Subject,
    faults: Iterable[Fault],
    *,
    seed: int,
    progress: Progress,
    costs: Collection[str] = ("forward", "training"),
) -> dict[str, Reading]:
    """One reading of every probe of these costs that the faults are judged by, by probe name."""
    probes = {p.name: p for fault in faults for p in fault.measured_by if p.cost in costs}
    readings = {}
    for done, probe in enumerate(probes.values()):
        progress(probe.question, done, len(probes))
        readings[probe.name] = read(probe, subject, seed)
    return readings


def judge(fault: Fault, readings: dict[str, Reading]) -> Finding:
    """The fault's verdict on these readings; "not tested", with the reason, where one is missing."""
    used = tuple(readings[probe.name] for probe in fault.measured_by if probe.name in readings)
    missing = next((reading.reason or "no measurement" for reading in used if reading.measurement is None), None)
    if missing is None and len(used) < len(fault.measured_by):
        missing = "it takes training, which waits until what forward passes find is repaired"
    if missing is not None:
        return Finding(fault=fault, verdict=not_tested(missing), readings=used)
    return Finding(fault=fault, verdict=fault.judge(*(reading.measurement for reading in used)), readings=used)


def readings_behind(findings: tuple[Finding, ...]) -> tuple[Reading, ...]:
    """Every reading that the findings rest on, each once."""
    return tuple({(r.probe, r.repaired): r for finding in findings for r in finding.readings}.values())


def reference_levels(subject: Subject) -> tuple[ReferenceLevel, ...]:
    """Losses that theory names, counted on this subject's own targets; empty where it has no classes.

    Frequencies come from the training text where there is a text view, otherwise from the first batches of one pass.
    """
    with open_bench(subject, seed=0) as bench, torch.no_grad():
        calls = [watched_loss(subject, bench.model, b)[1].losses for b in first_batches(subject, LEVEL_BATCHES)]
    seen = [call[-1] for call in calls if call]
    if not seen:
        return ()
    classes, text = seen[0].scores.shape[-1], subject.text_view
    if text is not None:
        heldout = heldout_unigram(text.train_tokens, text.heldout_tokens, classes)
        return (*levels_of_targets(text.train_tokens, classes), heldout)
    targets = torch.cat([call.targets for call in seen])
    frequencies = unigram(targets, classes)
    return (uniform(classes), frequencies, double_softmax_floor(classes), double_softmax_ceiling(classes))


def loss_as_it_stands(subject: Subject) -> float:
    """Mean loss of the model in its present state over the first training batches, in evaluation mode."""
    with open_bench(subject, seed=0) as bench, torch.no_grad():
        model = bench.standing_model().eval()
        return statistics.fmean(float(bench.loss(model, batch)) for batch in first_batches(subject, 5))
