"""The examination: from a subject to a diagnosis. Probes and verdicts, a second look behind them, then trials."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.causes import Budget, Trials, seconds_per_step
from diagnostics.diagnosis import Cause, Diagnosis, Milestone
from diagnostics.fault import HARMLESS, Fault, Finding, is_alarm, is_present, not_tested
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
from diagnostics.probe import Probe, Progress, Reading, read
from diagnostics.probes.gradient_norms import GRADIENT_NORMS
from diagnostics.probes.untrained_loss import UNTRAINED_LOSS, kept_targets
from diagnostics.probes.update_ratios import UPDATE_RATIOS
from diagnostics.repair import can_repair, in_repair_order, repaired
from diagnostics.roles import told_first
from diagnostics.rows import FEW_ROWS, affordable, few_rows
from diagnostics.subject import Subject
from diagnostics.trial import first_batches, resting
from diagnostics.watch import watched_loss
from diagnostics.workers import processes, run_all

DEFAULT_BUDGET = Budget()
LEVEL_BATCHES = 50  # for the token frequencies
EVIDENCE = (UNTRAINED_LOSS, GRADIENT_NORMS, UPDATE_RATIOS)  # read for every report, whatever the faults rest on
TRAINING_STEPS = 900  # that the probes which train take together, about
TRAINING_TIME = 0.25  # of the time of an examination
LOOKS = 3  # at most: the subject as it stands, and twice behind what was found


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
        A diagnosis; the same one for the same subject, seeds and budget, unless ``budget.seconds`` leaves runs out.

    Raises:
        ValueError: the subject cannot compute its own loss.
    """
    start = time.perf_counter()
    try_loss(subject)
    ends = math.inf if budget.seconds is None else start + budget.seconds
    tried = affordable(subject)
    costs = ("forward", "training") if time_to_train(tried, budget) else ("forward",)
    findings = look(tried, faults, seed=budget.seeds[0], progress=progress, workers=budget.workers, costs=costs)
    evidence = take_readings(tried, EVIDENCE, seed=budget.seeds[0], progress=progress, workers=budget.workers)
    trials = Trials(tried, findings, budget, progress, ends)
    causes, harmless = trials.causes()
    repair_order = in_repair_order(cause.finding.fault for cause in causes if cause.confirmed)
    milestones = trials.milestones(frozenset(repair_order))
    causes, harmless = with_suspects(causes, harmless, milestones)
    levels = reference_levels(subject)
    history = tuple(subject.history.values()) if subject.history else ()
    return Diagnosis(
        subject=subject.name,
        standing=resting(list(history)) if history else loss_as_it_stands(tried),
        history=history,
        levels=levels,
        readings=(*readings_behind(findings), *evidence.values()),
        findings=findings,
        causes=causes,
        deviations=harmless,
        explanations=tuple(f for f in findings if is_present(f) and f.fault.grade == "explanation"),
        repair_order=repair_order,
        path=trials.path(repair_order),
        left_out=tuple(trials.left_out),
        milestones=milestones,
        runs=tuple(trials.runs),
        base=trials.base,
        seeds=budget.seeds,
        seconds=time.perf_counter() - start,
        notes=subject.notes,
    )


def with_suspects(
    causes: tuple[Cause, ...], harmless: tuple[Cause, ...], milestones: Sequence[Milestone]
) -> tuple[tuple[Cause, ...], tuple[Cause, ...]]:
    """Signs that no trial confirms are harmless where the setup learns, and suspects where it does not.

    Where nothing is confirmed and what a sound setup must reach is missed, something is still to be explained. Another
    rate, decay or momentum is exactly what its trial tried: where that gains nothing, it is no suspect either.
    """
    missed = any(milestone.required and milestone.values and not milestone.reached for milestone in milestones)
    if not missed or any(cause.confirmed for cause in causes):
        return causes, harmless
    suspects = tuple(cause for cause in harmless if is_suspect(cause.finding))
    rest = tuple(cause for cause in harmless if cause not in suspects)
    return tuple(sorted((*causes, *suspects), key=told_first)), rest


def is_suspect(finding: Finding) -> bool:
    """Whether an alarm that no trial confirms may still explain a loss."""
    refuted = finding.fault.family == "optimization" or HARMLESS in finding.verdict.numbers
    return is_alarm(finding) and not refuted


def time_to_train(subject: Subject, budget: Budget) -> bool:
    """Whether the probes that train may be read: within TRAINING_TIME of the time, where there is a limit to it."""
    if budget.seconds is None:
        return True
    return TRAINING_STEPS * seconds_per_step(subject) / processes(budget.workers) <= TRAINING_TIME * budget.seconds


def try_loss(subject: Subject) -> None:
    """Compute the subject's loss once.

    Raises:
        ValueError: its own code raises.
    """
    with open_bench(subject, 0) as bench, torch.no_grad():
        try:
            bench.loss()
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise ValueError(
                f"{subject.name} cannot compute its own loss on its first batch ({said}); "
                "nothing can be examined before loss(model, batch) runs"
            ) from error


def look(
    subject: Subject,
    faults: Sequence[Fault],
    *,
    seed: int,
    progress: Progress,
    workers: int | None = 1,
    costs: tuple[str, ...] = ("forward", "training"),
) -> tuple[Finding, ...]:
    """Every fault's verdict: from forward passes first, then behind what they find.

    A dead model shows neither a rate that is too high nor a generation that goes wrong. So where the forward probes
    raise an alarm, everything that they find is repaired together, and what was not found yet is looked for again in
    the repaired subject, as long as that brings new alarms; probes that train are read only there. What is a
    consequence of something else that is present is left alone, and looked for again too: if it is still there, it is
    a cause of its own. Without an alarm, probes that train are read on the subject itself. ``costs`` says whether they
    are read at all.
    """
    subject = built_once(subject)
    taken = partial(take_readings, seed=seed, progress=progress, workers=workers)
    readings = taken(subject, probes_of(faults, ("forward",)))
    findings = tuple(judge(fault, readings) for fault in faults)
    alarms = sources(subject, findings)
    if not alarms:
        readings |= taken(subject, probes_of(faults, costs[1:]))
        findings = tuple(judge(fault, readings) for fault in faults)
        alarms = sources(subject, findings)
        if not any(is_alarm(finding) for finding in consequences(findings)):
            return findings
    for _ in range(LOOKS - 1):
        findings = behind(subject, findings, alarms, taken, costs)
        more = sources(subject, findings)
        if {fault.id for fault in more} <= {fault.id for fault in alarms}:
            break
        alarms = more
    return findings


def behind(
    subject: Subject,
    findings: Sequence[Finding],
    alarms: Sequence[Fault],
    taken: Callable[..., dict[str, Reading]],
    costs: Collection[str],
) -> tuple[Finding, ...]:
    """The findings, with what comes to light once the alarms are repaired together."""
    gone, there = {fault.id for fault in alarms}, {f.fault.id for f in findings if is_present(f)}
    followed = {f.fault.id for f in consequences(findings) if there & set(f.fault.follows_from) <= gone}
    others = [
        f.fault for f in findings if f.fault.grade != "explanation" and (not is_present(f) or f.fault.id in followed)
    ]
    readings = taken(as_built(repaired(subject, alarms)), probes_of(others, costs))
    order = in_repair_order(alarms)
    readings = {name: replace(reading, repaired=order) for name, reading in readings.items()}
    revealed = {fault.id: replace(judge(fault, readings), revealed=True) for fault in others}
    return tuple(_later(first, revealed.get(first.fault.id, first)) for first in findings)


def sources(subject: Subject, findings: Sequence[Finding]) -> list[Fault]:
    """The faults that raise an alarm, can be repaired, and are no mere consequence of another one."""
    followed = {finding.fault.id for finding in consequences(findings) if finding.fault.id not in subject.switches}
    alarms = [f.fault for f in findings if is_alarm(f) and f.fault.id not in followed]
    return [fault for fault in alarms if can_repair(subject, fault)]


def consequences(findings: Sequence[Finding]) -> list[Finding]:
    """Present findings that another present one brings about, as far as is known yet."""
    ids = {finding.fault.id for finding in findings if is_present(finding)}
    return [f for f in findings if is_present(f) and not f.revealed and ids & set(f.fault.follows_from)]


def as_built(subject: Subject) -> Subject:
    """The repaired setup from its start: what its model learned before the repair says nothing about it."""
    subject = built_once(subject)
    return subject if subject.build is None else replace(subject, model=subject.build(0))


def built_once(subject: Subject) -> Subject:
    """The subject whose freshly initialised models are copies of one that is built when first asked for."""
    build = subject.build
    if build is None:
        return subject
    kept: dict[int, nn.Module] = {}

    def copied(wanted: int) -> nn.Module:
        if wanted not in kept:
            kept[wanted] = build(wanted)
        return copy.deepcopy(kept[wanted])

    return replace(subject, build=copied)


def _later(first: Finding, second: Finding) -> Finding:
    """The second look's finding where it found something, or where the first look could not decide."""
    return second if is_present(second) or first.verdict.status in ("not tested", "unclear") else first


def probes_of(faults: Iterable[Fault], costs: Collection[str]) -> list[Probe]:
    """Every probe of these costs that the faults are judged by, each once."""
    return list({p.name: p for fault in faults for p in fault.measured_by if p.cost in costs}.values())


def take_readings(
    subject: Subject, probes: Iterable[Probe], *, seed: int, progress: Progress, workers: int | None = 1
) -> dict[str, Reading]:
    """One reading of every probe, by probe name, side by side; forward probes get batches of a few rows."""
    probes = list(probes)
    few = few_rows(subject, FEW_ROWS) if any(_takes_few(probe) for probe in probes) else subject
    tasks = [partial(read, probe, few if _takes_few(probe) else subject, seed) for probe in probes]
    stage = "looking at the subject"
    progress(stage, 0, len(tasks))
    taken = run_all(
        tasks,
        workers=processes(workers),
        on_done=lambda done: progress(stage, done, len(tasks)),
    )
    return {reading.probe: reading for reading in taken}


def _takes_few(probe: Probe) -> bool:
    return probe.cost == "forward" and not probe.whole_batches


def judge(fault: Fault, readings: dict[str, Reading]) -> Finding:
    """The fault's verdict on these readings; "not tested", with the reason, where one is missing."""
    used = tuple(readings[probe.name] for probe in fault.measured_by if probe.name in readings)
    missing = next((reading.reason or "no measurement" for reading in used if reading.measurement is None), None)
    if missing is None and len(used) < len(fault.measured_by):
        missing = "it takes training, which waits until what forward passes find is repaired, or for more time"
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
    with open_bench(few_rows(subject, FEW_ROWS), seed=0) as bench, torch.no_grad():
        seen = watched_loss(bench.subject, bench.model, bench.batch(0))[1].losses
    if not seen:
        return ()
    classes, text = seen[-1].scores.shape[-1], subject.text_view
    if text is not None:
        heldout = heldout_unigram(text.train_tokens, text.heldout_tokens, classes)
        return (*levels_of_targets(text.train_tokens, classes), heldout)
    frequencies = unigram(first_targets(subject), classes)
    return (uniform(classes), frequencies, double_softmax_floor(classes), double_softmax_ceiling(classes))


def first_targets(subject: Subject) -> Int[Tensor, " targets"]:
    """The targets that count in the first batches of one pass."""
    batches, view = first_batches(subject, LEVEL_BATCHES), subject.token_view
    if view is not None:
        rows = torch.cat([kept_targets(view, batch).flatten() for batch in batches])
        return rows[rows >= 0]
    with open_bench(subject, seed=0) as bench, torch.no_grad():
        calls = [watched_loss(subject, bench.model, batch)[1].losses for batch in batches]
    return torch.cat([call[-1].targets.cpu() for call in calls if call])


def loss_as_it_stands(subject: Subject) -> float:
    """Mean loss of the model in its present state over the first training batches, in evaluation mode."""
    with open_bench(subject, seed=0) as bench, torch.no_grad():
        model = bench.standing_model().eval()
        return statistics.fmean(float(bench.loss(model, batch)) for batch in first_batches(subject, 5))
