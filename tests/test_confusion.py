"""The calibration that we show: which faults fire on which planted one, and that none fires on a healthy subject."""

from collections.abc import Iterable, Iterator
from itertools import islice
from zlib import crc32

import pytest

from diagnostics.fault import Fault, Verdict, not_tested
from diagnostics.faults import CATALOGUE
from diagnostics.probe import Probe, Reading, read
from diagnostics.rows import FEW_ROWS, few_rows
from diagnostics.subject import Subject
from experiments.config import DefectsConfig
from tests import subjects

SEED = 0
ALARMING = ("proof", "sign")
BY_ID = {fault.id: fault for fault in CATALOGUE}
PLANTABLE = [fault for fault in CATALOGUE if fault.plant is not None]
SWITCHES = {fault.id for fault in CATALOGUE if fault.id.replace("-", "_") in DefectsConfig.__dataclass_fields__}
QUICK = ("gru", "torch-encoder", "mlp", "encoder-decoder")  # plants are tried on the first that carries them
ELSEWHERE = 2
LOOKED_AT = ("encoder-decoder", "gru", "mlp", "nn-transformer", "regression", "vision")  # the others are slow
TRAINED = ("gru", "mlp")  # with the probes that train

LEAKS = {"future-token-leak": "what the fault lets through is the future; it is told as its consequence"}

CROSS_FIRES: dict[str, dict[str, str]] = {
    "attention-collapsed": {
        "position-blind": "scores so large drown a bias by distance; told as its consequence",
    },
    "attention-softmax-over-the-wrong-axis": LEAKS,
    "heads-mixed-by-a-view": LEAKS,
    "inverted-mask": LEAKS,
    "mask-added-after-the-softmax": LEAKS,
    "mask-hides-the-token-itself": LEAKS,
    "mask-too-weak": LEAKS
    | {"padding-mask-missing": "masks over padding are as weak as the others; told as its consequence"},
    "future-token-leak": {
        "padding-mask-missing": "what hid later tokens hid padding behind them, too; told as its consequence",
    },
    "memory-not-used": {
        "vanishing-gradients": "the encoder's layers get no gradient; told as its consequence",
    },
    "batch-coupling": {
        "norm-over-the-wrong-axis": "planted by norms that work over the batch, which is a wrong axis",
    },
    "optimizer-holds-old-parameters": {
        "parameters-not-in-the-optimizer": "told as its consequence: where strangers are held, the model's own are not",
    },
    "graph-cut": {
        "saturated-output": "a cut graph leaves gradients at zero, as a saturated head does; its consequence",
    },
    "loss-without-gradient": {
        "saturated-output": "a loss that is cut off leaves every gradient zero, too; told as its consequence",
    },
    "generates-uniform-tokens": {
        "generation-differs-from-training": "it is one way to differ, told as its consequence",
    },
    "positions-on-the-batch-axis": {
        "graph-cut": "the plant writes other vectors over learned positions, which then get no gradient",
    },
    "saturated-output": {
        "embedding-scale": "planted by enlarging the head, which in the stuck run's model is the embedding as well",
        "tied-head-scale": "planted by enlarging the head, which in T5 is the embedding as well",
    },
    "vocabulary-too-large": {
        "head-vocabulary-mismatch": "the plant gives the text more tokens, and the scores keep their classes",
    },
    "softmax-before-cross-entropy": {
        "generates-uniform-tokens": "what the model returns is softmaxed once more when text is drawn from it",
        "generation-differs-from-training": "what the model returns is softmaxed once more when text is drawn from it",
    },
}
"""planted id -> {other id that may be present then: why that is right}."""

ABSTAINS: dict[tuple[str, str], str] = {
    ("norm-over-the-wrong-axis", "vision"): "no token argument tells which axis is which",
    (
        "per-position-affine",
        "seq2seq",
    ): "the planted tables do not fit sources and targets of other lengths",
    ("positions-on-the-batch-axis", "nn-transformer"): "a batch of eight rows has as many samples as positions",
    ("positions-on-the-batch-axis", "seq2seq"): "a batch of eight rows has as many samples as positions",
}
"""(planted id, subject) -> why the verdict must be "unclear" or "not tested" there."""


def probes_of(faults: Iterable[Fault], *, training: bool = True) -> dict[str, Probe]:
    """The probes that these faults are judged by, by name."""
    probes = [probe for fault in faults for probe in fault.measured_by]
    return {probe.name: probe for probe in probes if training or probe.cost == "forward"}


def neighbours(fault: Fault) -> list[Fault]:
    """What a fault looks like, and what looks like it."""
    return [other for other in CATALOGUE if other.id in fault.looks_like or fault.id in other.looks_like]


def verdicts_of(subject: Subject, probes: dict[str, Probe]) -> dict[str, Verdict]:
    """The verdict of every fault that these probes suffice for, each probe once, as an examination reads it."""
    few = few_rows(subject, FEW_ROWS)
    readings = {name: read(probe, subject if takes_all(probe) else few, SEED) for name, probe in probes.items()}
    return {
        fault.id: verdict(fault, [readings[probe.name] for probe in fault.measured_by])
        for fault in CATALOGUE
        if all(probe.name in readings for probe in fault.measured_by)
    }


def takes_all(probe: Probe) -> bool:
    """Whether a probe gets batches as the subject gives them."""
    return probe.cost == "training" or probe.whole_batches


def verdict(fault: Fault, readings: list[Reading]) -> Verdict:
    """The fault's judgement, or why there is none."""
    reason = next((reading.reason for reading in readings if reading.reason is not None), None)
    return fault.judge(*[reading.measurement for reading in readings]) if reason is None else not_tested(reason)


def planted(fault: Fault, name: str) -> Subject | None:
    """The healthy subject with the fault in it; None where it cannot carry it."""
    assert fault.plant is not None
    try:
        return fault.plant(subjects.HEALTHY[name]())
    except ValueError:
        return None


def alarms(verdicts: dict[str, Verdict]) -> dict[str, str]:
    """Faults of an alarming grade that are present, with their sentence."""
    return {
        id_: each.because for id_, each in verdicts.items() if each.status == "present" and BY_ID[id_].grade in ALARMING
    }


def switches() -> set[str]:
    """Ids of the faults that the stuck model can be built with."""
    return {fault.id for fault in CATALOGUE if fault.id.replace("-", "_") in DefectsConfig.__dataclass_fields__}


def in_order(fault: Fault) -> list[str]:
    """Names of the healthy subjects, beginning at a place that depends on the fault's name alone."""
    names = list(subjects.HEALTHY)
    start = crc32(fault.id.encode()) % len(names)
    return names[start:] + names[:start]


def carriers(fault: Fault, names: Iterable[str]) -> Iterator[tuple[str, Subject]]:
    """Those of the subjects that can carry the fault, with the fault in them."""
    for name in names:
        subject = planted(fault, name)
        if subject is not None:
            yield name, subject


@pytest.mark.parametrize("name", LOOKED_AT)
def test_nothing_is_present_on_a_healthy_subject(name: str) -> None:
    probes = probes_of(CATALOGUE, training=name in TRAINED)
    assert alarms(verdicts_of(subjects.HEALTHY[name](), probes)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_nothing_is_present_on_any_healthy_subject_after_training(name: str) -> None:
    assert alarms(verdicts_of(subjects.HEALTHY[name](), probes_of(CATALOGUE))) == {}


@pytest.mark.parametrize("fault", PLANTABLE, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_and_nothing_that_looks_like_it_without_a_reason(fault: Fault) -> None:
    """On the first quick subject that can carry it; the probes that it and its neighbours are judged by."""
    found = next(carriers(fault, (*QUICK, *in_order(fault))), None)
    assert found is not None, "no healthy subject can carry it"
    probes = probes_of([fault]) | probes_of(neighbours(fault), training=False)
    check(fault.id, verdicts_of(found[1], probes))


@pytest.mark.slow
@pytest.mark.parametrize("fault", PLANTABLE, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_elsewhere_and_no_other_without_a_reason(fault: Fault) -> None:
    """On ELSEWHERE more subjects, another choice for each fault; the benchmark plants every fault in every subject."""
    others = [name for name in in_order(fault) if name not in QUICK]
    probes = probes_of([fault]) | probes_of(CATALOGUE, training=False)
    for name, subject in islice(carriers(fault, others), ELSEWHERE):
        check(fault.id, verdicts_of(subject, probes), name)


@pytest.mark.parametrize("fault_id", sorted(SWITCHES))
def test_a_switch_of_the_stuck_model_is_found_alone(fault_id: str) -> None:
    fault = BY_ID[fault_id]
    if fault_id == "history-keeps-the-graph":
        pytest.skip("this switch belongs to the training loop; the subject has no history")
    switched = subjects.encoder_decoder(**{fault_id.replace("-", "_"): True})
    probes = probes_of([fault]) | probes_of([*neighbours(fault), *(BY_ID[each] for each in SWITCHES)], training=False)
    check(fault_id, verdicts_of(switched, probes))


def check(fault_id: str, verdicts: dict[str, Verdict], name: str = "") -> None:
    """The fault is present, and every other alarm is listed with a reason or is its consequence."""
    expected = ("unclear", "not tested") if (fault_id, name) in ABSTAINS else ("present",)
    assert verdicts[fault_id].status in expected, f"{name}: {verdicts[fault_id].because}"
    others = {id_: because for id_, because in alarms(verdicts).items() if id_ != fault_id}
    listed = {id_ for id_ in others if fault_id in BY_ID[id_].follows_from or id_ in CROSS_FIRES.get(fault_id, {})}
    assert set(others) <= listed, f"{name}: {others}"


def test_every_listed_cross_fire_names_faults_and_gives_a_reason() -> None:
    named = {*CROSS_FIRES, *(other for others in CROSS_FIRES.values() for other in others)}
    assert named <= set(BY_ID)
    assert all(reason for others in CROSS_FIRES.values() for reason in others.values())
