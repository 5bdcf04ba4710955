"""Trials remove what is present, alone and together, and what they say makes a fault a cause.

Greedy repair fails on real code: removing the first cause can make the honest loss worse, and of two redundant causes
neither shows alone. So the trials are of three kinds, all over the same seeds, and none depends on the outcome of
another:

- *alone*: repair one fault, leave everything else. Shows what holds the loss up.
- *all*: repair every fault that is present.
- *take back*: repair every fault but one; repair a deviation too. Shows what else is needed, and what is harmless.

What these confirm is repaired together in the end, and the milestones are measured on that. Beside every trial that
confirms, a placebo is run on the same seeds: every mechanism of an intervention, and no change.
"""

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import combinations, pairwise

import torch

from diagnostics.bench import open_bench
from diagnostics.diagnosis import Cause, Milestone, PathStep, Role, Run
from diagnostics.fault import ALARMING, Fault, Finding, is_alarm, is_present
from diagnostics.interventions.placebo import placebo
from diagnostics.levels import heldout_unigram
from diagnostics.probe import Progress
from diagnostics.quantities import (
    EVALUATED,
    FIT,
    HIDDEN,
    HONEST,
    HONEST_NATS,
    IMPOSSIBLE,
    LOWEST,
    LossOf,
    first_loss,
    honest_name,
    learned_at,
    loss_at,
    mean_or_nan,
    mean_or_none,
    still_falls,
)
from diagnostics.repair import can_repair, in_repair_order, repaired
from diagnostics.roles import (
    asked,
    beside_placebo,
    costs,
    decides,
    gains,
    is_harmless,
    measured,
    told,
    told_first,
)
from diagnostics.rows import few_rows
from diagnostics.subject import Subject
from diagnostics.trial import Outcome, Regime, Trial, train_once
from diagnostics.watch import watched_loss
from diagnostics.workers import one_thread, processes, run_all

REGIMES: tuple[Regime, ...] = ("one batch", "fresh batches")
FITS_BELOW = 0.05  # nats on one batch: it is learned (the line that the overfitting check draws)
LEAK_RANKS = 3  # repair ranks 30-39: leaks, which are the causes known to be redundant
STILL_FAULTS = 3  # with more faults than this, repairing a single one leaves a run that stands still
RANDOM_STEPS = 300  # on random tokens: attention without a mask is learned to be read after 200 (docs/log.md)
ONE_BATCH_ROWS = 8  # of the one batch: learned by heart sooner, and what forbids it forbids it all the same
LONGER = 5  # times the steps of one batch, where it is still being learned at their end
LEAST_STEPS = 40  # of a run that the time allows: fewer show nothing
NEEDED_RUNS = 4  # both regimes, without and with everything repaired: made however short the time is
TRIALS_TIME = 0.6  # of the time that is left; placebos, milestones and the way of repairs come after
OVERHEAD = 1.3  # seconds of a step inside an intervention per second of a plain one; measured 1.0-1.4


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much work the trials may be.

    Args:
        seeds: of the trials; each run starts from a freshly initialised model.
        one_batch_steps: optimizer steps on one batch.
        fresh_steps: optimizer steps on fresh batches before the honest loss is measured.
        alone_steps: the same where a single one of several faults is repaired: such runs stand still.
        workers: processes; None: one per core.
        seconds: wall-clock time that the whole examination may take, about. Where the planned runs would take longer
            they become shorter, then fewer, the least telling first; the diagnosis says what was left out. None: all
            of them are made.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    one_batch_steps: int = 200
    fresh_steps: int = 300
    alone_steps: int = 100
    workers: int | None = None
    seconds: float | None = None


class Trials:
    """Every training run of one examination, and what the runs say about each fault that is present."""

    def __init__(
        self,
        subject: Subject,
        findings: tuple[Finding, ...],
        budget: Budget,
        progress: Progress,
        ends: float = math.inf,
    ) -> None:
        """``ends``: the time of ``time.perf_counter`` at which the runs should be over."""
        self.subject, self.budget, self.progress, self.ends = subject, budget, progress, ends
        self.found = tuple(f for f in findings if is_present(f) and f.fault.grade != "explanation")
        self.faults = {f.fault.id: f.fault for f in self.found}
        tried = [finding.fault for finding in self.found if self._is_tried(finding)]
        self.base = frozenset(fault.id for fault in tried if fault.grade in ALARMING)
        self.extra = frozenset(fault.id for fault in tried) - self.base
        self.leaks = frozenset(each for each in self.base if self.faults[each].repair_rank // 10 == LEAK_RANKS)
        self.runs: list[Run] = []
        self.left_out: list[str] = []
        self.scale = 1.0  # of every planned number of steps
        self._make("training without and with each repair", self._plan(), time_share=TRIALS_TIME, needed=NEEDED_RUNS)

    def _is_tried(self, finding: Finding) -> bool:
        """Whether there is something to explain, and a repair of this fault that could."""
        alarm = any(is_alarm(f) and f.fault.concerns != "neither" for f in self.found)
        return alarm and not self._brought_about_by(finding) and can_repair(self.subject, finding.fault)

    def _brought_about_by(self, finding: Finding) -> tuple[str, ...]:
        """The present faults that this one is a consequence of.

        None where it has a switch of its own, or was still there after what brings it about was repaired.
        """
        if finding.fault.id in self.subject.switches or finding.revealed:
            return ()
        return tuple(each for each in finding.fault.follows_from if each in self.faults)

    def _plan(self) -> list[tuple[frozenset[str], Regime]]:
        """As it stands; each repair alone; every fault; every fault but one, or a deviation too; pairs of leaks.

        The most telling first: where time is short, the last ones are left out.
        """
        base, nothing = self.base, frozenset[str]()
        alone = [frozenset([each]) for each in in_repair_order(self.faults[each] for each in base)]
        but_one = [base - one for one in alone]
        more = [base | {each} for each in sorted(self.extra)]
        pairs = [base - {a, b} for a, b in combinations(sorted(self.leaks), 2)]
        plan: list[tuple[frozenset[str], Regime]] = [(each, regime) for regime in REGIMES for each in (nothing, base)]
        plan += [(each, "one batch") for each in alone]
        plan += [(each, "fresh batches") for each in (*alone, *but_one)]
        plan += [(each, "one batch") for each in but_one]
        plan += [(each, "random tokens") for each in self._leaks_apart(alone)]
        plan += [(each, "fresh batches") for each in (*more, *pairs, self._code_alone(base))]
        return list(dict.fromkeys(plan))

    def _leaks_apart(self, alone: Sequence[frozenset[str]]) -> list[frozenset[str]]:
        """The sets whose training on random tokens shows what each leak gives away."""
        leaks = [one for one in alone if self.faults[next(iter(one))].concerns == "honesty"]
        if self.subject.token_view is None or not leaks:
            return []
        return [frozenset(), self.base, *leaks, *(self.base - one for one in leaks)]

    def _steps(self, ids: frozenset[str], regime: Regime) -> int:
        """Optimizer steps of a run: runs that a trial compares have the same number."""
        stands_still = len(ids) <= 1 and len(self.base) > STILL_FAULTS
        planned = self.budget.alone_steps if stands_still else self.budget.fresh_steps
        if regime != "fresh batches":
            planned = self.budget.one_batch_steps if regime == "one batch" else RANDOM_STEPS
        return planned if self.scale == 1.0 else max(min(planned, LEAST_STEPS), int(planned * self.scale))

    def _code_alone(self, ids: frozenset[str]) -> frozenset[str]:
        """Those of the repairs that leave the vocabulary as it stands."""
        return frozenset(each for each in ids if not self.faults[each].is_about_vocabulary)

    def _make(
        self, stage: str, plan: Sequence[tuple[frozenset[str], Regime]], *, time_share: float = 1.0, needed: int = 0
    ) -> None:
        """Make the planned runs that are not there yet, over all seeds, as far as a share of the time left allows."""
        known = {(run.repaired, run.outcome.regime) for run in self.runs}
        plan = self._within_time([each for each in plan if each not in known], time_share, needed)
        if self.subject.build is None or not plan:
            return
        subjects = {ids: self._repaired(ids) for ids, _ in plan}
        outcomes = self._run(stage, [(subjects[ids], self._steps(ids, regime), regime) for ids, regime in plan])
        self.runs += [
            Run(repaired=ids, outcome=outcome)
            for (ids, _), group in zip(plan, outcomes, strict=True)
            for outcome in group
        ]

    def _run(self, stage: str, plan: Sequence[tuple[Subject, int, Regime]]) -> list[tuple[Outcome, ...]]:
        """The outcomes of each planned training, one per seed."""
        seeds = self.budget.seeds
        tasks = [
            partial(train_once, trained, regime=regime, seed=seed, steps=steps)
            for subject, steps, regime in plan
            for trained in [few_rows(subject, ONE_BATCH_ROWS) if regime == "one batch" else subject]
            for seed in seeds
        ]
        self.progress(stage, 0, len(tasks))
        outcomes = run_all(tasks, workers=self._workers, on_done=lambda done: self.progress(stage, done, len(tasks)))
        return [tuple(outcomes[start : start + len(seeds)]) for start in range(0, len(tasks), len(seeds))]

    @property
    def _workers(self) -> int:
        return processes(self.budget.workers)

    def _within_time(
        self, plan: list[tuple[frozenset[str], Regime]], time_share: float, needed: int
    ) -> list[tuple[frozenset[str], Regime]]:
        """As much of the plan as there is time for: shorter runs first (once, as trials compare equal steps), then
        fewer of them."""
        if math.isinf(self.ends) or self.subject.build is None or not plan:
            return plan
        left = time_share * max(0.0, self.ends - time.perf_counter()) / max(self._seconds_per_step, 1e-9)

        def steps() -> int:
            return sum(self._steps(ids, regime) for ids, regime in plan)

        if steps() > left and not self.runs:
            self.scale = left / steps()
        while len(plan) > needed and steps() > left:
            ids, regime = plan.pop()
            self.left_out.append(f"{regime} with {' and '.join(sorted(ids)) or 'nothing'} repaired")
        return plan

    @cached_property
    def _seconds_per_step(self) -> float:
        """Wall-clock seconds that one more step costs in a run over all seeds."""
        return seconds_per_step(self.subject) * OVERHEAD * len(self.budget.seeds) / self._workers

    def _repaired(self, ids: frozenset[str]) -> Subject:
        return repaired(self.subject, [self.faults[each] for each in ids])

    def _values(self, ids: frozenset[str], loss: LossOf) -> tuple[float, ...]:
        return tuple(loss.take(outcome) for outcome in self._outcomes(ids, loss.regime))

    def _outcomes(self, ids: frozenset[str], regime: Regime) -> tuple[Outcome, ...]:
        return tuple(r.outcome for r in self.runs if r.repaired == ids and r.outcome.regime == regime)

    def trial(self, before: frozenset[str], after: frozenset[str], loss: LossOf, reference: float | None) -> Trial:
        """The loss with these repairs against the loss with those, over the paired seeds.

        ``reference`` None: what everything repaired reaches.
        """
        done = self._values(self.base, loss)
        return Trial(
            question=asked(before, after, self.base),
            quantity=honest_name(self.subject) if loss is HONEST else loss.name,
            seeds=self.budget.seeds,
            before=self._values(before, loss),
            after=self._values(after, loss),
            reference=mean_or_nan(done) if reference is None else reference,
            regime=loss.regime,
            repaired=tuple(sorted(before)),
            start=first_loss(self._outcomes(before, loss.regime)),
        )

    def speed(self, before: frozenset[str], after: frozenset[str]) -> Trial | None:
        """One batch, compared at the step at which the repaired side has lost nine tenths of its loss.

        Shows what slows learning down without stopping it. None where the repaired side never comes that far.
        """
        runs = self._outcomes(before, "one batch"), self._outcomes(after, "one batch")
        if not all(outcome.curve for side in runs for outcome in side) or not all(runs):
            return None
        trial, lowest = self.trial(before, after, FIT, self._lowest(after)), self._lowest(after)
        step = learned_at([outcome.curve for outcome in runs[1]], lowest, trial.start)
        if step is None:
            return None
        values = [tuple(loss_at(outcome.curve, step) for outcome in side) for side in runs]
        return replace(trial, before=values[0], after=values[1], steps=step + 1)

    def causes(self) -> tuple[tuple[Cause, ...], tuple[Cause, ...]]:
        """Causes and what was measured harmless, each in the order in which a report tells them.

        Harmless is a deviation or a mere sign whose repair gains nothing; a proof stays a cause.
        """
        floor = self._floor()
        judged = self._controlled([self._cause(finding, floor) for finding in self.found])
        judged.sort(key=told_first)
        harmless = [cause for cause in judged if is_harmless(cause)]
        return tuple(c for c in judged if c not in harmless), tuple(harmless)

    def _controlled(self, causes: list[Cause]) -> list[Cause]:
        """The causes with a placebo beside each deciding trial; those that it explains as well are not confirmed."""
        decisive = [cause.trials[0] for cause in causes if cause.confirmed and cause.trials]
        sets = list(dict.fromkeys((frozenset(trial.repaired), trial.regime) for trial in decisive))
        plan = [(placebo(self._repaired(ids)), self._steps(ids, regime), regime) for ids, regime in sets]
        made = dict(zip(sets, self._run("training with a placebo", plan), strict=True)) if plan else {}
        return [beside_placebo(each, made) if each.confirmed and each.trials else each for each in causes]

    def path(self, order: Sequence[str]) -> tuple[PathStep, ...]:
        """The losses after each repair of this order, everything before it repaired too; nothing first."""
        sets = [frozenset(order[:count]) for count in range(len(order) + 1)] if order else []
        plan = [(ids, regime) for ids in sets for regime in REGIMES]
        self._make("training along the way of repairs", plan)
        return tuple(
            PathStep(
                repaired=order[count - 1] if count else None,
                one_batch=mean_or_none(self._values(ids, FIT)),
                honest=mean_or_none(self._values(ids, HONEST)),
                reveals=self._revealed_by(ids, frozenset(order[: max(0, count - 1)])) if count else (),
            )
            for count, ids in enumerate(sets)
        )

    def _revealed_by(self, ids: frozenset[str], before: frozenset[str]) -> tuple[str, ...]:
        """Faults whose evidence needed these repairs, and not only those before."""
        needed = {
            f.fault.id: frozenset(each for r in f.readings for each in r.repaired) for f in self.found if f.revealed
        }
        return tuple(sorted(one for one, needs in needed.items() if needs <= ids and not needs <= before))

    def _share(self, one: str) -> float | None:
        """The part of the loss of one batch that a repair takes away, as the first and as the last of the repairs."""
        nothing, alone, base = frozenset[str](), frozenset([one]), self.base
        if one not in base:
            return None
        means = [mean_or_none(self._values(ids, FIT)) for ids in (nothing, alone, base - alone, base)]
        if any(mean is None for mean in means):
            return None
        start, first, rest, end = (mean for mean in means if mean is not None)
        whole = start - end
        return (start - first + rest - end) / 2 / whole if whole > 0 else None

    def _floor(self) -> float | None:
        """The lowest loss that a present fault allows, where one confines the loss."""
        floors = [f.verdict.numbers["floor"] for f in self.found if "floor" in f.verdict.numbers]
        return max(floors, default=None)

    def _cause(self, finding: Finding, floor: float | None) -> Cause:
        """What the trials say about one fault that is present."""
        fault = finding.fault
        if fault.concerns == "neither":
            return Cause(finding=finding, role="no loss shows it", because=finding.verdict.because)
        if causes := self._brought_about_by(finding):
            because = f"a consequence of {' and '.join(causes)}"
            return Cause(finding=finding, role="follows from others", because=because, only_with=causes)
        if fault.id not in self.base | self.extra:
            because = f"no trial: {self._why_untried(fault)}"
            return Cause(finding=finding, role="not confirmed", because=because)
        trials = self._trials_on(fault.id, floor)
        if not trials:
            return Cause(finding=finding, role="not confirmed", because="no trial came to a number")
        role, decisive = next(((role, trial) for role, trial in trials if decides(role, trial)), (None, trials[-1][1]))
        return Cause(
            finding=finding,
            role=role or "no effect here",
            because=told(role, decisive),
            trials=(decisive, *(trial for _, trial in trials if trial is not decisive)),
            only_with=self._only_with(fault.id) if role == "hidden behind" else (),
            share=self._share(fault.id),
        )

    def _why_untried(self, fault: Fault) -> str:
        if self.subject.build is None:
            return "a trial needs Subject.build; this subject has none"
        if fault.grade == "deviation":
            return "nothing is wrong here that a deviation could explain"
        return "neither the setup nor an intervention from outside can remove it"

    def _trials_on(self, one: str, floor: float | None) -> list[tuple[Role, Trial]]:
        """Every trial on one fault, with the role that it would give, the plainest first.

        A deviation counts by what repairing it adds to the repaired setup; alone it is only shown in the table. Another
        vocabulary changes the scale of the loss per token, so such a repair is judged by the honest loss alone.
        """
        nothing, alone, base = frozenset[str](), frozenset([one]), self.base
        if one in self.extra:
            added = measured([("hidden behind", self.trial(base, base | alone, HONEST, None))])
            return [("hidden behind" if costs(trial) else "no effect here", trial) for _, trial in added]
        trials: list[tuple[Role, Trial]] = []
        about_vocabulary = self.faults[one].is_about_vocabulary
        if not about_vocabulary:
            trials.append(("holds the loss up", self.trial(nothing, alone, FIT, self._lowest(alone))))
            own = self._numbers(one).get("floor")
            if own is not None:
                trials.append(("holds the loss up", self.trial(nothing, alone, FIT, own)))
            elif floor is not None:
                trials.append(("pins the loss", self.trial(nothing, alone, FIT, floor)))
            trials.append(("holds the loss up", self.trial(base - alone, base, FIT, self._lowest(base))))
        trials += self._beyond_the_fit(one)
        if about_vocabulary:
            code = self._code_alone(base)
            trials.append(("hidden behind", self.trial(code, code | alone, HONEST, None)))
        return measured(trials)

    def _beyond_the_fit(self, one: str) -> list[tuple[Role, Trial]]:
        """Trials on what the end of one batch does not show: new text, the answers given away, how fast it learns."""
        nothing, alone, base = frozenset[str](), frozenset([one]), self.base
        pairs = ((nothing, alone), (base - alone, base))
        trials: list[tuple[Role, Trial]] = [
            ("holds the honest loss up", self.trial(nothing, alone, HONEST, None)),
            ("hidden behind", self.trial(base - alone, base, HONEST, None)),
        ]
        if self.faults[one].concerns == "evaluation":
            measure = EVALUATED if self.subject.evaluate is not None else HONEST
            return [("misleads the evaluation", self.trial(*pair, measure, None)) for pair in pairs]
        if self.faults[one].concerns == "honesty":
            measures = (HONEST,) if self.subject.token_view is None else (HIDDEN, IMPOSSIBLE)
            trials += [("flatters the loss", self.trial(*p, measure, 0.0)) for measure in measures for p in pairs]
        elif not self.faults[one].is_about_vocabulary:
            speeds = [self.speed(*pair) for pair in pairs]
            trials += [("slows learning", speed) for speed in speeds if speed is not None]
        return trials

    def _lowest(self, ids: frozenset[str]) -> float:
        """What no honest model can beat on the one batch of these runs."""
        return mean_or_nan(self._values(ids, LOWEST))

    def _numbers(self, one: str) -> dict[str, float]:
        return next(f.verdict.numbers for f in self.found if f.fault.id == one)

    def _only_with(self, one: str) -> tuple[str, ...]:
        """Leaks that must be repaired too before repairing this one gains anything."""
        others = sorted(self.leaks - {one}) if one in self.leaks else []
        pairs = {other: self.base - {one, other} for other in others}
        return tuple(other for other, both in pairs.items() if not gains(self.trial(both, both | {one}, HONEST, None)))

    def milestones(self, confirmed: frozenset[str]) -> tuple[Milestone, ...]:
        """What holds with exactly the confirmed causes repaired (or as it stands, where there is none)."""
        plan: list[tuple[frozenset[str], Regime]] = [(confirmed, "one batch"), (confirmed, "fresh batches")]
        code_only = self._code_alone(confirmed)
        self._make("training with the proposed repairs", [*plan, (code_only, "fresh batches")], needed=1)
        if not self.runs:
            return ()
        used = ", when the model is used as in generation" if self.subject.token_view else ""
        one_batch = self._learned(confirmed)
        learned = Milestone(
            claim=f"one batch is learned{used}",
            values=tuple(each.final if each.honest is None else each.honest for each in one_batch),
            bound=self._learned_below(one_batch),
            unit="nats per token",
            bound_is="the line of the overfitting check",
        )
        beaten = [self._beats_frequencies(confirmed, required=True)]
        if code_only != confirmed:
            beaten.append(self._beats_frequencies(code_only, required=False))
        return (learned, *(each for each in beaten if each is not None))

    def _learned(self, confirmed: frozenset[str]) -> tuple[Outcome, ...]:
        """The runs on one batch; longer ones where it is still being learned at their end, and there is time."""
        made = self._outcomes(confirmed, "one batch")
        steps = LONGER * self._steps(confirmed, "one batch")
        if not math.isinf(self.ends):
            steps = min(steps, int((self.ends - time.perf_counter()) / max(self._seconds_per_step, 1e-9)))
        if not any(still_falls(outcome) for outcome in made) or steps <= self._steps(confirmed, "one batch"):
            return made
        return self._run("training one batch longer", [(self._repaired(confirmed), steps, "one batch")])[0]

    def _learned_below(self, outcomes: Sequence[Outcome]) -> float:
        """FITS_BELOW nats above what smoothed labels leave; FITS_BELOW of the first loss where it is not in nats."""
        if not gives_classes(self.subject):
            return FITS_BELOW * first_loss(outcomes)
        left = [each.lowest_possible if each.honest is None else each.honest_lowest for each in outcomes]
        return FITS_BELOW + (mean_or_none(left) or 0.0)

    def _beats_frequencies(self, ids: frozenset[str], *, required: bool) -> Milestone | None:
        """Whether the held-out loss is below that of the token frequencies; None without text."""
        subject = self._repaired(ids)
        text, view = subject.text_view, subject.token_view
        if text is None or view is None:
            return None
        level = heldout_unigram(text.train_tokens, text.heldout_tokens, view.vocab_size)
        which = "with these repairs" if ids else "as the setup stands"
        if not required:
            which = "with the repairs of the code alone, the vocabulary as it stands"
        return Milestone(
            claim=f"new text is predicted better than by token frequencies, {which}",
            values=self._values(ids, HONEST_NATS),
            bound=level.nats,
            unit="nats per token",
            bound_is="held-out loss of the training frequencies",
            required=required,
        )


def gives_classes(subject: Subject) -> bool:
    """Whether the loss is a classification loss, and so in nats."""
    with open_bench(subject, 0) as bench, torch.no_grad():
        return bool(watched_loss(subject, bench.model, bench.batch(0))[1].losses)


def seconds_per_step(subject: Subject) -> float:
    """Wall-clock seconds of one training step on one thread: the shorter of two, after a first one."""
    with open_bench(subject, 0) as bench, one_thread():
        times = [time.perf_counter()]
        with suppress(Exception):  # a stranger's step may raise; the trials will tell
            bench.train(bench.one_batch(), 3, after_update=lambda step: times.append(time.perf_counter()))
    gaps = [b - a for a, b in pairwise(times)]
    return min(gaps[1:] or gaps or [0.0])
