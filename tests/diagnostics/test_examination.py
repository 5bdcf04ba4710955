"""The examination: what it tries, what it concludes from the trials, and that it is the same every time.

The rules are shown on made-up outcomes, where every loss is chosen (`World`); that they work is shown on small models
that are trained.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
import torch
from torch import nn

from diagnostics import causes
from diagnostics.bench import Bench
from diagnostics.causes import Budget, Trials
from diagnostics.diagnosis import Cause, Diagnosis, Role, to_json
from diagnostics.examination import examine, look, reference_levels
from diagnostics.fault import HARMLESS, Fault, Finding, Verdict, absent, present
from diagnostics.faults import CATALOGUE
from diagnostics.intervention import Intervention
from diagnostics.probe import Probe
from diagnostics.quantities import LossOf
from diagnostics.repair import in_repair_order, repaired
from diagnostics.roles import asked, decides, gains, told
from diagnostics.subject import Subject
from diagnostics.trial import Outcome, Regime, Trial
from tests import subjects

BY_ID = {fault.id: fault for fault in CATALOGUE}
FORWARD = tuple(fault for fault in CATALOGUE if all(probe.cost == "forward" for probe in fault.measured_by))
SOFTMAX, LEAK, NORM = "softmax-before-cross-entropy", "future-token-leak", "norm-over-the-wrong-axis"
TINY = Budget(seeds=(0, 1), one_batch_steps=7, fresh_steps=5, alone_steps=3, workers=1)
Repaired = frozenset[str]
NOTHING: Repaired = frozenset()
THERE = present("it is there")


def silent(stage: str, done: int, of: int) -> None:
    """No progress is shown."""


def plant(fault_id: str, subject: Subject) -> Subject:
    """The subject with a fault of the catalogue in it."""
    wrong = BY_ID[fault_id].plant
    assert wrong is not None
    return wrong(subject)


def switched(**defects: bool) -> Subject:
    """The stuck run's model with these defects, each of which its own configuration can switch off."""

    def repair(faults: frozenset[str]) -> Subject:
        return switched(**{name: on and name.replace("_", "-") not in faults for name, on in defects.items()})

    own = frozenset(name.replace("_", "-") for name, on in defects.items() if on)
    return replace(subjects.encoder_decoder(**defects), switches=own, repair=repair)


def without_seconds(value: Any) -> Any:
    """The same JSON value with every duration left out."""
    if isinstance(value, dict):
        return {name: without_seconds(each) for name, each in value.items() if name != "seconds"}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value


def same(one: Diagnosis, other: Diagnosis) -> bool:
    """Whether two diagnoses say the same in every number but the time that they took."""
    return without_seconds(to_json(one)) == without_seconds(to_json(other))


# Trained for real, on models that take a second.


def test_a_softmax_planted_in_a_classifier_is_named_first_and_confirmed() -> None:
    budget = replace(TINY, one_batch_steps=120, fresh_steps=60)
    found = examine(plant(SOFTMAX, subjects.mlp()), faults=FORWARD, budget=budget)
    assert found.state == "faulty"
    assert (found.causes[0].id, found.causes[0].role) == (SOFTMAX, "holds the loss up")
    assert found.confirmed == found.causes[:1]
    assert found.repair_order == (SOFTMAX,)
    assert all(milestone.reached for milestone in found.milestones)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_softmax_planted_in_a_language_model_is_named_first_and_confirmed() -> None:
    budget = replace(TINY, one_batch_steps=300, fresh_steps=40)
    found = examine(plant(SOFTMAX, subjects.encoder_decoder()), faults=FORWARD, budget=budget)
    assert (found.causes[0].id, found.causes[0].role) == (SOFTMAX, "holds the loss up")
    assert [cause.id for cause in found.confirmed] == [SOFTMAX]
    assert all(milestone.reached for milestone in found.milestones)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_two_leaks_each_names_the_other_without_which_its_repair_gains_nothing() -> None:
    budget = replace(TINY, one_batch_steps=5, fresh_steps=200)
    found = examine(switched(future_token_leak=True, norm_over_the_wrong_axis=True), faults=FORWARD, budget=budget)
    causes = {cause.id: cause for cause in found.causes}
    assert {LEAK, NORM} <= set(causes)
    assert {causes[LEAK].role, causes[NORM].role} == {"hidden behind"}
    assert (causes[LEAK].only_with, causes[NORM].only_with) == ((NORM,), (LEAK,))
    assert found.repair_order == (LEAK, NORM)


@pytest.mark.parametrize("name", ["mlp", "gru"])
def test_nothing_is_wrong_with_a_healthy_subject(name: str) -> None:
    found = examine(subjects.HEALTHY[name](), faults=FORWARD, budget=replace(TINY, one_batch_steps=150, fresh_steps=50))
    assert (found.causes, found.confirmed, found.repair_order, found.base) == ((), (), (), NOTHING)
    assert found.state == "healthy"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_nothing_of_the_whole_catalogue_is_wrong_with_a_healthy_subject(name: str) -> None:
    budget = replace(TINY, one_batch_steps=300, fresh_steps=150)
    found = examine(subjects.HEALTHY[name](), budget=budget)
    assert found.causes == ()
    assert found.state == "healthy"


def test_the_same_subject_seeds_and_budget_give_the_same_diagnosis_on_one_worker_or_two() -> None:
    subject = plant(SOFTMAX, subjects.mlp())
    once, again = (examine(subject, faults=FORWARD, budget=TINY) for _ in range(2))
    side_by_side = examine(subject, faults=FORWARD, budget=replace(TINY, workers=2))
    assert same(once, again)
    assert same(once, side_by_side)
    assert not same(once, examine(subject, faults=FORWARD, budget=replace(TINY, seeds=(2, 3))))


def test_the_callers_subject_is_untouched_by_value() -> None:
    subject = plant(SOFTMAX, subjects.mlp())
    subject.model.eval()
    subject.model[1].train()  # type: ignore[index]
    before = by_value(subject.model)
    examine(subject, faults=(BY_ID[SOFTMAX],), budget=TINY)
    assert by_value(subject.model) == before


def by_value(model: nn.Module) -> tuple[Any, ...]:
    """What a caller could see changed: values, gradients, modes, hooks, randomness, threads.

    Python's own random state is left out: the shape checks of the test run draw from it.
    """
    return (
        {name: value.tolist() for name, value in model.state_dict().items()},
        [parameter.grad for parameter in model.parameters()],
        [(module.training, len(module._forward_hooks)) for module in model.modules()],
        torch.get_rng_state().tolist(),
        (torch.is_grad_enabled(), torch.get_num_threads()),
    )


def test_progress_names_every_stage_and_counts_up_to_the_end() -> None:
    seen: list[tuple[str, int, int]] = []
    examine(
        plant(SOFTMAX, subjects.mlp()),
        faults=(BY_ID[SOFTMAX],),
        budget=TINY,
        progress=lambda stage, done, of: seen.append((stage, done, of)),
    )
    assert seen[0] == ("looking at the subject", 0, 1)
    training = [(done, of) for stage, done, of in seen if stage == "training without and with each repair"]
    assert training == [(done, 8) for done in range(9)]  # 2 sets of repairs, 2 regimes, 2 seeds


def test_a_present_fault_without_a_fresh_model_is_not_confirmed_and_says_why() -> None:
    subject = replace(plant(SOFTMAX, subjects.mlp()), build=None)
    found = examine(subject, faults=(BY_ID[SOFTMAX],), budget=TINY)
    (cause,) = found.causes
    assert (cause.role, cause.trials) == ("not confirmed", ())
    assert "a trial needs Subject.build; this subject has none" in cause.because
    assert (found.runs, found.milestones, found.repair_order, found.state) == ((), (), (), "faulty")


def test_a_loss_without_a_history_is_measured_and_levels_are_counted_on_its_targets() -> None:
    found = examine(subjects.mlp(), faults=(), budget=replace(TINY, one_batch_steps=1, fresh_steps=1))
    assert 0.5 < found.standing < 2
    uniform = found.level("uniform")
    assert uniform is not None
    assert uniform.nats == pytest.approx(math.log(3))
    assert [level.name for level in found.levels] == [
        "uniform",
        "unigram",
        "double-softmax floor",
        "double-softmax ceiling",
    ]
    counted_on_text = {level.name for level in reference_levels(subjects.gru())}
    assert counted_on_text - {level.name for level in found.levels} == {"bigram", "held-out unigram"}


def test_a_subject_that_cannot_compute_its_own_loss_is_refused_in_one_line() -> None:
    broken = replace(subjects.mlp(), loss=lambda model, batch: model(batch[0], batch[1]))
    with pytest.raises(ValueError, match=r"mlp cannot compute its own loss on its first batch \(TypeError: .*\)"):
        examine(broken, budget=TINY)


def test_one_batch_that_is_still_being_learned_gets_more_steps() -> None:
    slow = replace(subjects.mlp(), optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05))
    found = examine(slow, faults=(), budget=replace(TINY, one_batch_steps=30))
    (learned,) = found.milestones
    runs = found.outcomes(frozenset(), "one batch")
    assert max(learned.values) < min(run.final for run in runs)


# What is looked at, and when.


def probe(name: str, cost: Literal["forward", "training"] = "forward", seen: list[str] | None = None) -> Probe:
    """A probe that finds nothing out; tells ``seen`` which subject it was read on."""

    def measure(bench: Bench) -> float:
        if seen is not None:
            seen.append(bench.subject.name)
        return 1.0

    return Probe(name=name, question=f"what does {name} say?", measure=measure, cost=cost)


def fault(
    id_: str,
    *,
    verdict: Verdict = THERE,
    grade: Any = "proof",
    concerns: Any = "fit",
    rank: int = 10,
    measured_by: Probe | None = None,
    **rest: Any,
) -> Fault:
    """A catalogue entry with a verdict that is known beforehand."""
    return Fault(
        id=id_,
        family=rest.pop("family", "model"),
        grade=grade,
        concerns=concerns,
        repair_rank=rank,
        measured_by=(measured_by or probe(f"probe-of-{id_}"),),
        judge=lambda measurement: verdict,
        **rest,
    )


def with_switches(subject: Subject, faults: tuple[Fault, ...], gone: Repaired = NOTHING) -> Subject:
    """The subject with a switch for each fault; its name lists the ones that are repaired."""
    return replace(
        subject,
        name=" ".join(sorted(gone)),
        switches=frozenset(each.id for each in faults) - gone,
        repair=lambda more: with_switches(subject, faults, gone | more),
    )


NAME = Probe(name="name", question="who?", measure=lambda bench: bench.subject.name)


def test_probes_that_train_are_read_at_once_where_nothing_alarms() -> None:
    seen: list[str] = []
    faults = (fault("quiet", verdict=absent("no")), fault("slow-one", measured_by=probe("trains", "training", seen)))
    quiet, slow_one = look(with_switches(subjects.mlp(), faults), faults, seed=3, progress=silent)
    assert seen == [""]
    assert (quiet.verdict.status, slow_one.verdict.status, slow_one.revealed) == ("absent", "present", False)
    assert [(reading.seed, reading.repaired) for reading in slow_one.readings] == [(3, ())]


def test_probes_that_train_wait_until_what_alarms_is_repaired() -> None:
    seen: list[str] = []
    faults = (fault("b", rank=2), fault("a", rank=3), fault("slow-one", measured_by=probe("trains", "training", seen)))
    *alarms, slow_one = look(with_switches(subjects.mlp(), faults), faults, seed=3, progress=silent)
    assert seen == ["a b"]
    assert not any(finding.revealed for finding in alarms)
    assert slow_one.revealed
    assert slow_one.readings[0].repaired == ("b", "a")  # in the order of repair


def test_what_was_absent_is_looked_for_again_behind_what_alarms() -> None:
    hidden = replace(
        fault("hidden", measured_by=Probe(name="name", question="who?", measure=lambda bench: bench.subject.name)),
        judge=lambda name: present("seen now") if "loud" in name else absent("not seen"),
    )
    faults = (fault("loud"), hidden)
    _, found = look(with_switches(subjects.mlp(), faults), faults, seed=0, progress=silent)
    assert (found.verdict.because, found.revealed) == ("seen now", True)


def test_what_is_absent_twice_keeps_its_first_reading() -> None:
    faults = (fault("loud"), fault("quiet", verdict=absent("no")))
    _, quiet = look(with_switches(subjects.mlp(), faults), faults, seed=0, progress=silent)
    assert (quiet.revealed, quiet.readings[0].repaired) == (False, ())


def test_an_alarm_that_nobody_can_repair_holds_up_no_other_probe() -> None:
    seen: list[str] = []
    faults = (fault("loud"), fault("slow-one", measured_by=probe("trains", "training", seen)))
    _, slow_one = look(subjects.mlp(), faults, seed=0, progress=silent)
    assert seen == ["mlp"]
    assert slow_one.verdict.status == "present"


def test_a_probe_that_fails_leaves_a_fault_not_tested_with_the_reason() -> None:
    def fails(bench: Bench) -> float:
        raise RuntimeError("no such layer")

    broken = fault("broken", measured_by=Probe(name="fails", question="does it fail?", measure=fails))
    (found,) = look(subjects.mlp(), (broken,), seed=0, progress=silent)
    assert found.verdict.status == "not tested"
    assert "RuntimeError: no such layer" in found.verdict.because


def test_repairs_use_the_setups_own_switch_and_otherwise_a_remedy_from_outside() -> None:
    remedy = Intervention(name="calm", does="calm it", apply=lambda subject: replace(subject, batch_axis=1))
    outside, own = fault("outside", remedies=(remedy,)), fault("own")
    found = repaired(with_switches(subjects.mlp(), (own,)), [outside, own])
    assert (found.name, found.batch_axis) == ("own", 1)
    assert repaired(subjects.mlp(), []).name == "mlp"


def test_a_fault_that_nothing_can_remove_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no remedy for odd can act on mlp"):
        repaired(subjects.mlp(), [fault("odd")])


def test_the_order_of_repair_is_by_rank_and_then_by_name() -> None:
    assert in_repair_order([fault("c", rank=2), fault("b", rank=3), fault("a", rank=3)]) == ("c", "a", "b")


# What the trials say, with chosen losses.


@dataclass
class World:
    """What each set of repairs comes to: repaired -> loss of one batch, and repaired -> honest loss.

    ``steps`` and ``compared`` keep what was run for how long, and which sets were compared.
    """

    fit: Callable[[Repaired], float]
    honest: Callable[[Repaired], float]
    steps: dict[tuple[Repaired, Regime], int] = field(default_factory=dict)
    compared: list[tuple[Repaired, Repaired, Regime]] = field(default_factory=list)

    def train_once(self, subject: Subject, *, regime: Regime, seed: int, steps: int) -> Outcome:
        """Stands in for training: a seed moves each loss by 1e-3."""
        gone = frozenset(subject.name.split())
        self.steps[gone, regime] = steps
        one, fresh = self.fit(gone) + seed / 1000, self.honest(gone) + seed / 1000
        return Outcome(regime=regime, seed=seed, final=one, honest=one if regime == "one batch" else fresh)


Examined = Callable[..., Diagnosis]


@pytest.fixture
def in_world(monkeypatch: pytest.MonkeyPatch) -> Examined:
    """world, faults -> the diagnosis of a setup that has a switch for each fault."""
    compare = Trials.trial

    def examined(world: World, *faults: Fault, subject: Subject | None = None, budget: Budget = TINY) -> Diagnosis:
        def recorded(self: Trials, before: Repaired, after: Repaired, loss: LossOf, reference: float | None) -> Trial:
            world.compared.append((before, after, loss.regime))
            return compare(self, before, after, loss, reference)

        monkeypatch.setattr(causes, "train_once", world.train_once)
        monkeypatch.setattr(Trials, "trial", recorded)
        return examine(with_switches(subject or subjects.mlp(), faults), faults=faults, budget=budget)

    return examined


def roles(found: Diagnosis) -> dict[str, Role]:
    """Causes and deviations by id."""
    return {cause.id: cause.role for cause in (*found.causes, *found.deviations)}


def cause(found: Diagnosis, id_: str) -> Cause:
    """The cause with that id."""
    return next(each for each in found.causes if each.id == id_)


def flat(value: float) -> Callable[[Repaired], float]:
    """The same loss whatever is repaired."""
    return lambda gone: value


def test_what_makes_one_batch_fit_when_removed_alone_holds_the_loss_up(in_world: Examined) -> None:
    world = World(fit=lambda gone: 0.01 if "it" in gone else 2.0, honest=flat(3.0))
    found = in_world(world, fault("it"))
    assert roles(found) == {"it": "holds the loss up"}
    assert cause(found, "it").trials[0].question == "repair it, nothing else repaired"
    assert "99% of the loss above 0 goes away" in cause(found, "it").because


def test_a_cause_that_holds_the_loss_up_behind_another_one_is_found_by_taking_its_repair_back(
    in_world: Examined,
) -> None:
    world = World(fit=lambda gone: 0.01 if gone >= {"one", "two"} else 2.0, honest=flat(3.0))
    found = in_world(world, fault("one"), fault("two"))
    assert roles(found) == {"one": "holds the loss up", "two": "holds the loss up"}
    assert cause(found, "one").trials[0].question == "repair one, all else repaired"


def test_what_keeps_a_confined_loss_above_its_floor_pins_it_and_is_told_after_what_confines_it(
    in_world: Examined,
) -> None:
    def fit(gone: Repaired) -> float:
        return 0.01 if "softmax" in gone else 1.05 if "scale" in gone else 2.0

    confined = fault("softmax", verdict=present("confined", floor=1.0, ceiling=2.0), rank=20)
    found = in_world(World(fit=fit, honest=flat(3.0)), fault("scale"), confined)
    assert [(each.id, each.role) for each in found.causes] == [
        ("softmax", "holds the loss up"),
        ("scale", "pins the loss"),
    ]
    assert cause(found, "scale").trials[0].reference == 1.0
    assert found.repair_order == ("scale", "softmax")  # by rank, not by rank of telling


def test_what_lowers_the_honest_loss_alone_is_told_apart_from_what_does_so_behind_others(in_world: Examined) -> None:
    def honest(gone: Repaired) -> float:
        return 5.0 - 2.0 * ("open" in gone) - 1.0 * (gone >= {"open", "behind"})

    found = in_world(World(fit=flat(0.01), honest=honest), fault("behind"), fault("open"))
    assert [(each.id, each.role) for each in found.causes] == [
        ("open", "holds the honest loss up"),
        ("behind", "hidden behind"),
    ]


def test_two_redundant_leaks_name_each_other(in_world: Examined) -> None:
    world = World(fit=flat(0.01), honest=lambda gone: 2.0 if gone >= {"left", "right"} else 5.0)
    found = in_world(world, fault("left", rank=30), fault("right", rank=39), fault("other", rank=40))
    assert cause(found, "left").only_with == ("right",)
    assert cause(found, "right").only_with == ("left",)
    assert roles(found)["other"] == "no effect here"


def test_of_two_leaks_only_the_one_that_gains_nothing_by_itself_needs_the_other(in_world: Examined) -> None:
    def honest(gone: Repaired) -> float:
        return 2.0 if gone >= {"left", "right"} else 3.5 if "left" in gone else 5.0

    found = in_world(World(fit=flat(0.01), honest=honest), fault("left", rank=30), fault("right", rank=31))
    assert roles(found) == {"left": "holds the honest loss up", "right": "hidden behind"}
    assert (cause(found, "left").only_with, cause(found, "right").only_with) == ((), ("left",))


def test_only_leaks_are_tried_in_pairs(in_world: Examined) -> None:
    faults = [fault(name, rank=rank) for name, rank in (("a", 29), ("b", 30), ("c", 40), ("d", 39))]
    found = in_world(World(fit=flat(2.0), honest=flat(5.0)), *faults)
    assert {run.repaired for run in found.runs if len(run.repaired) == 2} == {frozenset("ac")}  # all but b and d


def test_what_changes_nothing_has_no_effect_and_no_place_in_the_repair_order(in_world: Examined) -> None:
    found = in_world(World(fit=flat(2.0), honest=flat(3.0)), fault("idle"))
    assert roles(found) == {"idle": "no effect here"}
    assert (found.repair_order, found.state, found.confirmed) == ((), "faulty", ())
    assert "no gain beyond noise" in cause(found, "idle").because


@pytest.mark.parametrize(("fit", "state"), [(0.01, "healthy"), (2.0, "faulty")])
def test_a_sign_without_effect_is_a_suspect_only_where_something_is_left_to_explain(
    fit: float, state: str, in_world: Examined
) -> None:
    found = in_world(World(fit=flat(fit), honest=flat(3.0)), fault("hint", grade="sign"))
    assert found.state == state
    assert roles(found) == {"hint": "no effect here"}
    assert bool(found.causes) == (state == "faulty")


def test_what_no_loss_can_show_is_told_as_harmless_although_it_is_a_proof(in_world: Examined) -> None:
    there = present("a constant is not saved", **{HARMLESS: 1.0})
    found = in_world(World(fit=flat(2.0), honest=flat(3.0)), fault("unsaved", verdict=there))
    assert (found.causes, [each.id for each in found.deviations]) == ((), ["unsaved"])


def test_runs_that_fail_leave_a_cause_unconfirmed(in_world: Examined) -> None:
    found = in_world(World(fit=flat(math.nan), honest=flat(math.nan)), fault("it"))
    assert roles(found) == {"it": "not confirmed"}
    assert cause(found, "it").because == "no trial came to a number"


def test_a_fault_of_bookkeeping_is_shown_by_no_loss_and_never_tried(in_world: Examined) -> None:
    world = World(fit=flat(0.01), honest=flat(3.0))
    found = in_world(world, fault("memory", concerns="neither"))
    assert roles(found) == {"memory": "no loss shows it"}
    assert {run.repaired for run in found.runs} == {NOTHING}
    assert found.state == "faulty"


def test_a_deviation_alone_never_makes_a_setup_faulty(in_world: Examined) -> None:
    world = World(fit=flat(0.01), honest=lambda gone: 3.0 - len(gone))
    found = in_world(world, fault("unusual", grade="deviation"))
    assert found.state == "healthy"
    assert (found.causes, roles(found)) == ((), {"unusual": "not confirmed"})
    assert found.deviations[0].because == "no trial: nothing is wrong here that a deviation could explain"
    assert {run.repaired for run in found.runs} == {NOTHING}


def test_a_deviation_beside_a_fault_is_tried_on_top_of_the_repairs(in_world: Examined) -> None:
    def honest(gone: Repaired) -> float:
        return 5.0 - 2.0 * ("wrong" in gone) - 1.0 * (gone >= {"wrong", "costly"})

    deviations = (fault("costly", grade="deviation"), fault("harmless", grade="deviation"))
    found = in_world(World(fit=flat(0.01), honest=honest), fault("wrong"), *deviations)
    assert found.base == {"wrong"}
    assert roles(found) == {
        "wrong": "holds the honest loss up",
        "costly": "hidden behind",
        "harmless": "no effect here",
    }
    assert [each.id for each in found.deviations] == ["harmless"]
    assert found.repair_order == ("costly", "wrong")
    assert found.outcomes(frozenset(["wrong", "costly"]), "one batch")  # the milestones' own set


def test_an_explanation_is_no_cause_and_is_not_tried(in_world: Examined) -> None:
    found = in_world(World(fit=flat(0.01), honest=flat(3.0)), fault("patience", grade="explanation"))
    assert [each.fault.id for each in found.explanations] == ["patience"]
    assert (found.causes, found.deviations, found.state) == ((), (), "healthy")


def test_a_consequence_of_a_present_fault_is_said_to_follow_from_it() -> None:
    remedy = Intervention(name="none", does="nothing", apply=lambda subject: subject)
    state = fault("state", follows_from=("source", "another"), remedies=(remedy,), measured_by=NAME)
    source = fault("source")
    state = replace(state, judge=lambda name: absent("gone") if "source" in name else THERE)
    found = examine(with_switches(subjects.mlp(), (source,)), faults=(state, source), budget=TINY)
    consequence = cause(found, "state")
    assert (consequence.role, consequence.only_with, consequence.trials) == ("follows from others", ("source",), ())
    assert consequence.because == "a consequence of source"
    assert "state" not in found.base | frozenset(found.repair_order)


def test_what_is_still_there_when_its_source_is_repaired_is_a_cause_of_its_own() -> None:
    remedy = Intervention(name="none", does="nothing", apply=lambda subject: subject)
    source, state = fault("source"), fault("state", follows_from=("source",), remedies=(remedy,))
    found = examine(with_switches(subjects.mlp(), (source,)), faults=(state, source), budget=TINY)
    assert cause(found, "state").finding.revealed
    assert (cause(found, "state").role, cause(found, "state").only_with) == ("no effect here", ())


def test_a_state_that_has_a_switch_of_its_own_is_tried_itself(in_world: Examined) -> None:
    world = World(fit=lambda gone: 0.01 if "state" in gone else 2.0, honest=flat(3.0))
    found = in_world(world, fault("source"), fault("state", follows_from=("source",)))
    assert roles(found)["state"] == "holds the loss up"


def test_a_state_whose_source_is_absent_is_tried_itself(in_world: Examined) -> None:
    world = World(fit=lambda gone: 0.01 if "state" in gone else 2.0, honest=flat(3.0))
    found = in_world(world, fault("source", verdict=absent("no")), fault("state", follows_from=("source",)))
    assert roles(found) == {"state": "holds the loss up"}


def test_a_fault_that_nothing_can_remove_is_not_confirmed_and_says_so() -> None:
    found = examine(subjects.mlp(), faults=(fault("odd"),), budget=TINY)
    assert cause(found, "odd").role == "not confirmed"
    assert cause(found, "odd").because == "no trial: neither the setup nor an intervention from outside can remove it"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_runs_that_a_trial_compares_have_the_same_number_of_steps(count: int, in_world: Examined) -> None:
    world = World(fit=flat(2.0), honest=lambda gone: 9.0 - len(gone))
    faults = [fault(name, rank=30 + index) for index, name in enumerate("abcde"[:count])]
    in_world(world, *faults, fault("unusual", grade="deviation"))
    assert world.compared
    for before, after, regime in world.compared:
        assert world.steps[before, regime] == world.steps[after, regime]
    assert {steps for (_, regime), steps in world.steps.items() if regime == "one batch"} == {TINY.one_batch_steps}
    alone = world.steps[frozenset("a"), "fresh batches"]
    assert alone == (TINY.alone_steps if count > 3 else TINY.fresh_steps)


def test_every_set_of_repairs_is_run_once_per_regime_and_seed(in_world: Examined) -> None:
    found = in_world(World(fit=flat(2.0), honest=flat(3.0)), fault("a", rank=30), fault("b", rank=31), fault("c"))
    runs = [(run.repaired, run.outcome.regime, run.outcome.seed) for run in found.runs]
    assert len(runs) == len(set(runs))
    assert {seed for _, _, seed in runs} == {0, 1}


def test_with_the_code_alone_everything_is_repaired_but_the_vocabulary(in_world: Examined) -> None:
    """Wrong labels are a matter of the data as well, and yet no other vocabulary."""

    def honest(gone: Repaired) -> float:
        return 9.0 - 4.0 * ("labels" in gone) - 3.0 * (gone >= {"labels", "merges"})

    subject = subjects.gru()
    merges = fault("merges", family="data", measured_by=BY_ID["vocabulary-too-large"].measured_by[0], rank=90)
    found = in_world(World(fit=flat(0.01), honest=honest), fault("labels", family="data"), merges, subject=subject)
    assert found.repair_order == ("labels", "merges")
    learned, everything, code_alone = found.milestones
    assert learned.reached
    assert (everything.values, everything.reached, everything.required) == ((2.0, 2.001), True, True)
    assert (code_alone.values, code_alone.reached, code_alone.required) == ((5.0, 5.001), False, False)
    assert all(trial.quantity.startswith("honest") for trial in cause(found, "merges").trials)


# The sentences and the decisions, on trials made by hand.


def trial(before: tuple[float, ...], after: tuple[float, ...], reference: float = 0.0) -> Trial:
    return Trial(
        question="repair x, nothing else repaired",
        quantity="loss (nats per token)",
        seeds=tuple(range(len(before))),
        before=before,
        after=after,
        reference=reference,
    )


@pytest.mark.parametrize(
    ("before", "after", "question"),
    [
        ("", "a", "repair a, nothing else repaired"),
        ("ab", "abc", "repair c, all else repaired"),
        ("a", "ac", "repair c, all else repaired but b"),
        ("abc", "abcd", "repair d, all else repaired"),
        ("a", "abc", "repair b and c, all else repaired"),
    ],
)
def test_a_trial_says_what_it_compares(before: str, after: str, question: str) -> None:
    assert asked(frozenset(before), frozenset(after), frozenset("abc")) == question


def test_an_honest_loss_gains_where_it_falls_by_more_than_noise_and_by_enough() -> None:
    assert gains(trial((5.0, 5.01), (4.0, 4.01)))
    assert not gains(trial((5.0, 5.001), (4.95, 4.951)))  # 1 %, however sure
    assert not gains(trial((5.0, 7.0), (4.0, 6.0)))  # a seed alone does more
    assert not gains(trial((4.0, 4.01), (5.0, 5.01)))
    assert not gains(trial((5.0,), (1.0,)))


def test_the_loss_of_one_batch_decides_where_most_of_it_goes_away_and_it_was_not_learned() -> None:
    assert decides("holds the loss up", trial((2.0, 2.01), (0.1, 0.11)))
    assert not decides("holds the loss up", trial((2.0, 2.01), (1.0, 1.01)))
    assert decides("pins the loss", trial((2.0, 2.01), (1.0, 1.01), reference=0.9))
    assert not decides("holds the loss up", trial((0.4, 0.41), (0.01, 0.02)))
    assert decides("hidden behind", trial((5.0, 5.01), (4.0, 4.01)))


def test_the_deciding_numbers_are_told_in_one_sentence() -> None:
    fits = trial((2.0, 4.0), (0.5, 1.5), reference=0.5)
    assert told("holds the loss up", fits) == (
        "repair x, nothing else repaired: loss (nats per token) 3 -> 1; 80% of the loss above 0.5 goes away "
        "(paired error 0.5, seeds alone 1.4, 2 seeds)"
    )
    assert told("hidden behind", fits).endswith("3 -> 1 (paired error 0.5, seeds alone 1.4, 2 seeds)")
    assert told(None, fits).endswith("3 -> 1: too little (paired error 0.5, seeds alone 1.4, 2 seeds)")
    idle = trial((2.0, 4.0), (2.0, 4.0), reference=0.5)
    assert told(None, idle).endswith("3 -> 3: no gain beyond noise (paired error 0, seeds alone 1.4, 2 seeds)")


def test_a_finding_stays_plain_data() -> None:
    (found,) = look(subjects.mlp(), (fault("it"),), seed=0, progress=silent)
    assert found == Finding(fault=found.fault, verdict=present("it is there"), readings=found.readings)
