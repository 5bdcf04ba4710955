"""The calibration that we show: which faults fire on which planted one, and that none fires on a healthy subject."""

from collections.abc import Iterator
from typing import Any

import pytest

from diagnostics.fault import Fault, Verdict, not_tested
from diagnostics.faults import CATALOGUE
from diagnostics.probe import Probe, Reading, read
from diagnostics.subject import Subject
from experiments.config import DefectsConfig
from tests import subjects

SEED = 0
ALARMING = ("proof", "sign")
BY_ID = {fault.id: fault for fault in CATALOGUE}
QUICK = "encoder-decoder"  # the subject that plants are tried on by default; the rest of the matrix is slow

LEAKS = {"future-token-leak": "what the fault lets through is the future; it is told as its consequence"}

CROSS_FIRES: dict[str, dict[str, str]] = {
    "attention-softmax-over-the-wrong-axis": LEAKS,
    "inverted-mask": LEAKS,
    "mask-added-after-the-softmax": LEAKS,
    "mask-hides-the-token-itself": LEAKS,
    "mask-too-weak": LEAKS,
    "batch-coupling": {
        "norm-over-the-wrong-axis": "planted by norms that work over the batch, which is a wrong axis",
    },
    "optimizer-holds-old-parameters": {
        "parameters-not-in-the-optimizer": "told as its consequence: where strangers are held, the model's own are not",
    },
    "loss-without-gradient": {
        "saturated-output": "a loss that is cut off leaves every gradient zero, too; told as its consequence",
    },
    "generates-uniform-tokens": {
        "generation-differs-from-training": "it is one way to differ, told as its consequence",
    },
    "saturated-output": {
        "embedding-scale": "planted by enlarging the head, which in the stuck run's model is the embedding as well",
    },
    "softmax-before-cross-entropy": {
        "generates-uniform-tokens": "what the model returns is softmaxed once more when text is drawn from it",
        "generation-differs-from-training": "what the model returns is softmaxed once more when text is drawn from it",
    },
}
"""planted id -> {other id that may be present then: why that is right}."""


def probes_for(*, training: bool, also: Fault | None = None) -> dict[str, Probe]:
    """The catalogue's probes by name; without ``training`` those that train only where ``also`` is measured by them."""
    probes = {probe.name: probe for fault in CATALOGUE for probe in fault.measured_by}
    needed = () if also is None else also.measured_by
    return {name: probe for name, probe in probes.items() if training or probe.cost == "forward" or probe in needed}


def verdicts_of(subject: Subject, *, training: bool, also: Fault | None = None) -> dict[str, Verdict]:
    """The verdict of every fault whose probes are read, each probe once."""
    probes = probes_for(training=training, also=also)
    readings = {name: read(probe, subject, SEED) for name, probe in probes.items()}
    return {
        fault.id: verdict(fault, [readings[probe.name] for probe in fault.measured_by])
        for fault in CATALOGUE
        if all(probe.name in readings for probe in fault.measured_by)
    }


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


def matrix() -> Iterator[Any]:
    """fault, subject name, whether probes that train are read too.

    By default every fault on one subject, without such probes, and faults with a switch are switched on instead.
    """
    for fault in CATALOGUE:
        for name in subjects.HEALTHY if fault.plant is not None else ():
            if name == QUICK and fault.id not in switches():
                yield pytest.param(fault, name, False, id=f"{fault.id}-{name}")
            yield pytest.param(fault, name, True, id=f"{fault.id}-{name}-training", marks=pytest.mark.slow)


def healthy() -> Iterator[Any]:
    """subject name, whether probes that train are read too."""
    for name in subjects.HEALTHY:
        marks = [] if name in ("mlp", "nn-transformer", QUICK) else [pytest.mark.slow]
        yield pytest.param(name, True, id=f"{name}-training", marks=marks)
        if marks:
            yield pytest.param(name, False, id=name)


@pytest.mark.parametrize(("name", "training"), list(healthy()))
def test_nothing_is_present_on_a_healthy_subject(name: str, training: bool) -> None:
    assert alarms(verdicts_of(subjects.HEALTHY[name](), training=training)) == {}


@pytest.mark.parametrize(("fault", "name", "training"), list(matrix()))
def test_a_planted_fault_fires_and_no_other_without_a_reason(fault: Fault, name: str, training: bool) -> None:
    subject = planted(fault, name)
    if subject is None:
        pytest.skip(f"{name} cannot carry {fault.id}")
    check(fault.id, verdicts_of(subject, training=training, also=fault))


@pytest.mark.parametrize("fault_id", sorted(switches()))
def test_a_switch_of_the_stuck_model_is_found_alone(fault_id: str) -> None:
    fault = BY_ID[fault_id]
    if fault_id == "history-keeps-the-graph":
        pytest.skip("this switch belongs to the training loop; the subject has no history")
    switched = subjects.encoder_decoder(**{fault_id.replace("-", "_"): True})
    check(fault_id, verdicts_of(switched, training=False, also=fault))


@pytest.mark.parametrize("fault", [fault for fault in CATALOGUE if fault.plant is not None], ids=lambda fault: fault.id)
def test_a_plant_finds_a_subject_that_can_carry_it(fault: Fault) -> None:
    assert any(planted(fault, name) is not None for name in subjects.HEALTHY)


def check(fault_id: str, verdicts: dict[str, Verdict]) -> None:
    """The fault is present, and every other alarm is listed with a reason."""
    assert verdicts[fault_id].status == "present", verdicts[fault_id].because
    others = {id_: because for id_, because in alarms(verdicts).items() if id_ != fault_id}
    assert set(others) <= set(CROSS_FIRES.get(fault_id, {})), others


def test_every_listed_cross_fire_names_faults_and_gives_a_reason() -> None:
    named = {*CROSS_FIRES, *(other for others in CROSS_FIRES.values() for other in others)}
    assert named <= set(BY_ID)
    assert all(reason for others in CROSS_FIRES.values() for reason in others.values())
