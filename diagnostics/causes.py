"""Trials remove what is present, alone and together, and what they say makes a fault a cause.

Greedy repair fails on real code: removing the first cause can make the honest loss worse, and of two redundant causes
neither shows alone. So the trials are of three kinds, all over the same seeds, and none depends on the outcome of
another:

- *alone*: repair one fault, leave everything else. Shows what holds the loss up.
- *all*: repair every fault that is present.
- *take back*: repair every fault but one; repair a deviation too. Shows what else is needed, and what is harmless.

What these confirm is repaired together in the end, and the milestones are measured on that.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from diagnostics.diagnosis import ROLES, Cause, Milestone, Role, Run
from diagnostics.fault import ALARMING, Fault, Finding, is_alarm, is_present
from diagnostics.levels import heldout_unigram
from diagnostics.probe import Progress
from diagnostics.repair import can_repair, repaired
from diagnostics.subject import Subject
from diagnostics.trial import Outcome, Regime, Trial, train_once
from diagnostics.workers import run_all, workers_available

FITS_BELOW = 0.05  # nats on one batch: it is learned (the line that the overfitting check draws)
LEAK_RANKS = 3  # repair ranks 30-39: leaks, which are the causes known to be redundant
UNFIT_ABOVE = 0.5  # nats on one batch: it is not being learned (below, it is learned slowly)
STILL_FAULTS = 3  # with more faults than this, repairing a single one leaves a run that stands still
HARM_SHARE = 0.02  # of the honest loss: smaller effects are not worth a repair, even where seeds agree


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much work the trials may be.

    Args:
        seeds: of the trials; each run starts from a freshly initialised model.
        one_batch_steps: optimizer steps on one batch.
        fresh_steps: optimizer steps on fresh batches before the honest loss is measured.
        alone_steps: the same where a single one of several faults is repaired: such runs stand still.
        workers: processes; None: one per core.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    one_batch_steps: int = 200
    fresh_steps: int = 300
    alone_steps: int = 100
    workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class LossOf:
    """Which loss of an outcome is compared, and in which regime it was trained."""

    name: str
    regime: Regime
    take: Callable[[Outcome], float]


def honest_in_best_unit(outcome: Outcome) -> float:
    """Bits per byte where there is text (they compare vocabularies), otherwise nats per token; NaN if neither."""
    if outcome.bits_per_byte is not None:
        return outcome.bits_per_byte
    return math.nan if outcome.honest is None else outcome.honest


FIT = LossOf(name="loss of one batch (nats per token)", regime="one batch", take=lambda outcome: outcome.final)
LOWEST = LossOf(
    name="lowest possible loss of one batch (nats per token)",
    regime="one batch",
    take=lambda outcome: outcome.lowest_possible,
)
HONEST = LossOf(name="honest held-out loss (bits per byte)", regime="fresh batches", take=honest_in_best_unit)
HONEST_NATS = LossOf(
    name="honest held-out loss (nats per token)",
    regime="fresh batches",
    take=lambda outcome: math.nan if outcome.honest is None else outcome.honest,
)


class Trials:
    """Every training run of one examination, and what the runs say about each fault that is present."""

    def __init__(self, subject: Subject, findings: tuple[Finding, ...], budget: Budget, progress: Progress) -> None:
        self.subject, self.budget, self.progress = subject, budget, progress
        self.found = tuple(f for f in findings if is_present(f) and f.fault.grade != "explanation")
        self.faults = {f.fault.id: f.fault for f in self.found}
        tried = [fault for fault in self.faults.values() if self._is_tried(fault)]
        self.base = frozenset(fault.id for fault in tried if fault.grade in ALARMING)
        self.extra = frozenset(fault.id for fault in tried) - self.base
        self.leaks = frozenset(each for each in self.base if self.faults[each].repair_rank // 10 == LEAK_RANKS)
        self.runs: list[Run] = []
        self._make("training without and with each repair", self._plan())

    def _is_tried(self, fault: Fault) -> bool:
        """Whether there is something to explain, and a repair of this fault that could."""
        alarm = any(is_alarm(f) and f.fault.concerns != "neither" for f in self.found)
        return alarm and not self._brought_about_by(fault) and can_repair(self.subject, fault)

    def _brought_about_by(self, fault: Fault) -> tuple[str, ...]:
        """The present faults that this one is a consequence of, where it has no switch of its own."""
        return () if fault.id in self.subject.switches else tuple(e for e in fault.follows_from if e in self.faults)

    def _plan(self) -> list[tuple[frozenset[str], Regime]]:
        """As it stands; each repair alone; every fault; every fault but one, or a deviation too; pairs of leaks."""
        base = self.base
        alone = [frozenset([each]) for each in sorted(base | self.extra)]
        changed = [base ^ one for one in alone]
        pairs = [base - {a, b} for a, b in combinations(sorted(self.leaks), 2)]
        fit = [frozenset[str](), *alone, base, *changed]
        plan: list[tuple[frozenset[str], Regime]] = [(each, "one batch") for each in fit]
        plan += [(each, "fresh batches") for each in (*fit, *pairs, self._code_alone(base))]
        return list(dict.fromkeys(plan))

    def _steps(self, ids: frozenset[str], regime: Regime) -> int:
        """Optimizer steps of a run: runs that a trial compares have the same number."""
        if regime == "one batch":
            return self.budget.one_batch_steps
        stands_still = len(ids) <= 1 and len(self.base) > STILL_FAULTS
        return self.budget.alone_steps if stands_still else self.budget.fresh_steps

    def _code_alone(self, ids: frozenset[str]) -> frozenset[str]:
        """Those of the repairs that leave the vocabulary as it stands."""
        return frozenset(each for each in ids if not self.faults[each].is_about_vocabulary)

    def _make(self, stage: str, plan: Sequence[tuple[frozenset[str], Regime]]) -> None:
        """Make the planned runs that are not there yet, over all seeds."""
        known = {(run.repaired, run.outcome.regime) for run in self.runs}
        plan = [each for each in plan if each not in known]
        if self.subject.build is None or not plan:
            return
        subjects = {ids: self._repaired(ids) for ids, _ in plan}
        jobs = [(ids, regime, seed) for ids, regime in plan for seed in self.budget.seeds]
        tasks = [
            partial(train_once, subjects[ids], regime=regime, seed=seed, steps=self._steps(ids, regime))
            for ids, regime, seed in jobs
        ]
        self.progress(stage, 0, len(tasks))
        workers = workers_available() if self.budget.workers is None else self.budget.workers
        outcomes = run_all(tasks, workers=workers, on_done=lambda done: self.progress(stage, done, len(tasks)))
        made = [Run(repaired=ids, outcome=outcome) for (ids, _, _), outcome in zip(jobs, outcomes, strict=True)]
        self.runs += made

    def _repaired(self, ids: frozenset[str]) -> Subject:
        return repaired(self.subject, [self.faults[each] for each in ids])

    def _values(self, ids: frozenset[str], loss: LossOf) -> tuple[float, ...]:
        return tuple(
            loss.take(run.outcome) for run in self.runs if run.repaired == ids and run.outcome.regime == loss.regime
        )

    def trial(self, before: frozenset[str], after: frozenset[str], loss: LossOf, reference: float | None) -> Trial:
        """The loss with these repairs against the loss with those, over the paired seeds.

        ``reference`` None: what everything repaired reaches.
        """
        done = self._values(self.base, loss)
        return Trial(
            question=asked(before, after, self.base),
            quantity=loss.name if loss is not HONEST or self.subject.text_view else HONEST_NATS.name,
            seeds=self.budget.seeds,
            before=self._values(before, loss),
            after=self._values(after, loss),
            reference=statistics.fmean(done) if reference is None else reference,
        )

    def causes(self) -> tuple[tuple[Cause, ...], tuple[Cause, ...]]:
        """Causes and harmless deviations, each in the order in which a report tells them."""
        floor = self._floor()
        judged = [self._cause(finding, floor) for finding in self.found]
        judged.sort(key=lambda cause: (ROLES.index(cause.role), -weight(cause), cause.id))
        harmless = [c for c in judged if c.finding.fault.grade == "deviation" and not c.confirmed]
        return tuple(c for c in judged if c not in harmless), tuple(harmless)

    def _floor(self) -> float | None:
        """The lowest loss that a present fault allows, where one confines the loss."""
        floors = [f.verdict.numbers["floor"] for f in self.found if "floor" in f.verdict.numbers]
        return max(floors, default=None)

    def _cause(self, finding: Finding, floor: float | None) -> Cause:
        """What the trials say about one fault that is present."""
        fault = finding.fault
        if fault.concerns == "neither":
            return Cause(finding=finding, role="no loss shows it", because=finding.verdict.because)
        if causes := self._brought_about_by(fault):
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
            return measured([("hidden behind", self.trial(base, base | alone, HONEST, None))])
        trials: list[tuple[Role, Trial]] = []
        about_vocabulary = self.faults[one].is_about_vocabulary
        if not about_vocabulary:
            trials.append(("holds the loss up", self.trial(nothing, alone, FIT, self._lowest(alone))))
            if floor is not None and "floor" not in self._numbers(one):
                trials.append(("pins the loss", self.trial(nothing, alone, FIT, floor)))
            trials.append(("holds the loss up", self.trial(base - alone, base, FIT, self._lowest(base))))
        trials.append(("holds the honest loss up", self.trial(nothing, alone, HONEST, None)))
        trials.append(("hidden behind", self.trial(base - alone, base, HONEST, None)))
        if about_vocabulary:
            code = self._code_alone(base)
            trials.append(("hidden behind", self.trial(code, code | alone, HONEST, None)))
        return measured(trials)

    def _lowest(self, ids: frozenset[str]) -> float:
        """What no honest model can beat on the one batch of these runs."""
        return statistics.fmean(self._values(ids, LOWEST))

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
        self._make("training with the proposed repairs", [*plan, (code_only, "fresh batches")])
        if not self.runs:
            return ()
        one_batch = tuple(
            run.outcome.final if run.outcome.honest is None else run.outcome.honest
            for run in self.runs
            if run.repaired == confirmed and run.outcome.regime == "one batch"
        )
        used = ", when the model is used as in generation" if self.subject.token_view else ""
        learned = Milestone(
            claim=f"one batch is learned{used}",
            values=one_batch,
            bound=FITS_BELOW,
            unit="nats per token",
            bound_is="the line of the overfitting check",
        )
        beaten = [self._beats_frequencies(confirmed, required=True)]
        if code_only != confirmed:
            beaten.append(self._beats_frequencies(code_only, required=False))
        return (learned, *(each for each in beaten if each is not None))

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


def asked(before: frozenset[str], after: frozenset[str], everything: frozenset[str]) -> str:
    """What a trial compares, in words."""
    changed = " and ".join(sorted(after - before))
    rest = "nothing else repaired" if not before else "all else repaired"
    if before and not after >= everything:
        rest = f"all else repaired but {' and '.join(sorted(everything - after))}"
    return f"repair {changed}, {rest}"


def weight(cause: Cause) -> float:
    """How much a cause matters among those of the same role: the share, or the effect, of its deciding trial."""
    if not cause.trials:
        return 0.0
    trial = cause.trials[0]
    return trial.share if cause.role in ("holds the loss up", "pins the loss") else trial.effect


def gains(trial: Trial) -> bool:
    """Whether an honest loss falls by more than noise, and by enough to be worth a repair."""
    return trial.counts and trial.effect > HARM_SHARE * statistics.fmean(trial.after)


def decides(role: Role, trial: Trial) -> bool:
    """Whether this trial gives a fault this role."""
    if role in ("holds the loss up", "pins the loss"):
        return trial.confirms and statistics.fmean(trial.before) > UNFIT_ABOVE
    return gains(trial)


def measured(trials: list[tuple[Role, Trial]]) -> list[tuple[Role, Trial]]:
    """Those of the trials that came to a number on both sides."""
    return [(role, trial) for role, trial in trials if is_measured(trial)]


def is_measured(trial: Trial) -> bool:
    """Whether both sides were run over all seeds and came to a number."""
    both = (*trial.before, *trial.after)
    return len(both) == 2 * len(trial.seeds) and all(map(math.isfinite, both))


def told(role: Role | None, trial: Trial) -> str:
    """One sentence with the deciding numbers of a trial."""
    before, after = statistics.fmean(trial.before), statistics.fmean(trial.after)
    change = f"{trial.question}: {trial.quantity} {before:.4g} -> {after:.4g}"
    noise = f"paired error {trial.effect_error:.2g}, seeds alone {trial.seed_spread:.2g}, {len(trial.seeds)} seeds"
    if role in ("holds the loss up", "pins the loss"):
        return f"{change}; {trial.share:.0%} of the loss above {trial.reference:.4g} goes away ({noise})"
    if role:
        return f"{change} ({noise})"
    return f"{change}: {'worse with the repair' if trial.harms else 'no gain beyond noise'} ({noise})"
