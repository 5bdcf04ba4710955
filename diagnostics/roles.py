"""Which role a trial gives a fault, what is told first, and the sentence with the deciding numbers: pure functions."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace

from diagnostics.diagnosis import ROLES, Cause, Role
from diagnostics.fault import ALARMING, HARMLESS
from diagnostics.quantities import HIDDEN, IMPOSSIBLE, LOSSES, loss_at
from diagnostics.trial import Outcome, Regime, Trial

UNFIT_ABOVE = 0.5  # nats on one batch: it is not being learned (below, it is learned slowly)
UNFIT_SHARE = 0.3  # of the first loss: the same as UNFIT_ABOVE for losses that are not in nats
FELT = 0.1  # of the first loss: what the same must cost at least; a quarter of next to nothing is nothing
HARM_SHARE = 0.02  # of the honest loss: smaller effects are not worth a repair, even where seeds agree
DEVIATION_SHARE = 0.25  # of the honest loss: what a departure from a recipe must cost before it is called a cause; ours


def decides(role: Role, trial: Trial) -> bool:
    """Whether this trial gives a fault this role."""
    if role in ("holds the loss up", "pins the loss"):
        return trial.confirms and is_unfit(trial)
    if role == "no effect here":
        return False
    if role == "slows learning":
        return trial.confirms
    if role == "flatters the loss":
        return gives_away(trial)
    if role == "misleads the evaluation":
        return (trial.counts or trial.harms) and abs(trial.effect) > HARM_SHARE * abs(statistics.fmean(trial.after))
    return gains(trial)


def gains(trial: Trial) -> bool:
    """Whether an honest loss falls by more than noise, and by enough to be worth a repair."""
    return is_measured(trial) and trial.counts and trial.effect > HARM_SHARE * statistics.fmean(trial.after)


def costs(trial: Trial) -> bool:
    """Whether a departure from a recipe costs enough to be called a cause."""
    least = max(DEVIATION_SHARE * statistics.fmean(trial.after), 0.0 if math.isnan(trial.start) else FELT * trial.start)
    return gains(trial) and trial.effect > least


def gives_away(trial: Trial) -> bool:
    """Whether a loss was better than it should have been: what it hides goes away, or the loss itself gets worse."""
    if trial.quantity in (HIDDEN.name, IMPOSSIBLE.name):
        return trial.confirms and trial.effect > HARM_SHARE * trial.start
    return trial.harms and -trial.effect > HARM_SHARE * abs(statistics.fmean(trial.before))


def is_unfit(trial: Trial) -> bool:
    """Whether one batch is not learned without the repair: too many nats, or too much of the first loss, are left."""
    if trial.rescues:
        return True
    before = statistics.fmean(trial.before)
    most = UNFIT_SHARE * (trial.start - trial.reference)
    return before > UNFIT_ABOVE or (math.isfinite(most) and before - trial.reference > most)


def is_harmless(cause: Cause) -> bool:
    """Whether trials say that a deviation, or a mere sign, does nothing here."""
    grade, refuted = cause.finding.fault.grade, cause.role == "no effect here"
    by_itself = grade == "deviation" or HARMLESS in cause.finding.verdict.numbers
    return not cause.confirmed and (by_itself or (grade == "sign" and refuted))


def told_first(cause: Cause) -> tuple[int, int, float, str]:
    """What a report tells first: what is confirmed by its role, then proofs, signs, departures and consequences, each
    in the order of repair: what hides others first."""
    fault, role = cause.finding.fault, ROLES.index(cause.role)
    if cause.confirmed and fault.grade in ALARMING:
        return role, ALARMING.index(fault.grade), -weight(cause), cause.id
    if cause.role == "follows from others":
        place = 4
    elif fault.grade not in ALARMING:
        place = 3
    else:
        place = 2 if fault.grade == "sign" and cause.role == "no effect here" else ALARMING.index(fault.grade)
    return len(ROLES) + place, fault.repair_rank, 0.0, cause.id


def weight(cause: Cause) -> float:
    """How much a cause matters among those of the same role: the share, or the effect, of its deciding trial."""
    if not cause.trials:
        return 0.0
    trial = cause.trials[0]
    shares = ("holds the loss up", "pins the loss", "slows learning", "flatters the loss")
    return trial.share if cause.role in shares else abs(trial.effect)


def measured(trials: list[tuple[Role, Trial]]) -> list[tuple[Role, Trial]]:
    """Those of the trials that came to a number on both sides."""
    return [(role, trial) for role, trial in trials if is_measured(trial)]


def is_measured(trial: Trial) -> bool:
    """Whether both sides were run over all seeds and came to a number, or diverged on one side alone."""
    both = (*trial.before, *trial.after)
    return len(both) == 2 * len(trial.seeds) and (trial.rescues or all(map(math.isfinite, both)))


def beside_placebo(cause: Cause, placebos: Mapping[tuple[frozenset[str], Regime], tuple[Outcome, ...]]) -> Cause:
    """The cause with a placebo beside its deciding trial; not confirmed where that does as much."""
    decisive = cause.trials[0]
    loss = next(each for each in LOSSES if each.name == decisive.quantity)
    outcomes = placebos[frozenset(decisive.repaired), decisive.regime]
    at = decisive.steps
    sham = tuple(loss.take(each) if at is None else loss_at(each.curve, at - 1) for each in outcomes)
    if not all(map(math.isfinite, sham)):
        return cause
    decisive = replace(decisive, sham=sham)
    cause = replace(cause, trials=(decisive, *cause.trials[1:]))
    if decisive.beats_sham:
        return cause
    because = f"{cause.because}; but a placebo moves it by {decisive.sham_effect:.2g} as well"
    return replace(cause, role="no effect here", because=because, only_with=())


def asked(before: frozenset[str], after: frozenset[str], everything: frozenset[str]) -> str:
    """What a trial compares, in words."""
    changed = " and ".join(sorted(after - before))
    rest = "nothing else repaired" if not before else "all else repaired"
    if before and not after >= everything:
        rest = f"all else repaired but {' and '.join(sorted(everything - after))}"
    return f"repair {changed}, {rest}"


def told(role: Role | None, trial: Trial) -> str:
    """One sentence with the deciding numbers of a trial."""
    before, after = statistics.fmean(trial.before), statistics.fmean(trial.after)
    change = f"{trial.question}: {trial.quantity} {before:.4g} -> {after:.4g}"
    noise = f"paired error {trial.effect_error:.2g}, seeds alone {trial.seed_spread:.2g}, {len(trial.seeds)} seeds"
    if role == "slows learning":
        change = f"{change} after {trial.steps} steps"
    if trial.rescues:
        return f"{change}: every run diverges without the repair, none with it ({len(trial.seeds)} seeds)"
    if role in ("holds the loss up", "pins the loss", "slows learning") or trial.quantity in (
        HIDDEN.name,
        IMPOSSIBLE.name,
    ):
        return f"{change}; {trial.share:.0%} of the loss above {trial.reference:.4g} goes away ({noise})"
    if role:
        return f"{change} ({noise})"
    said = "worse with the repair" if trial.harms else "too little" if gains(trial) else "no gain beyond noise"
    return f"{change}: {said} ({noise})"
