"""What every probe, fault and intervention promises, shown over the whole catalogue and every healthy subject."""

import contextlib
import copy
import dataclasses
import importlib
import json
import math
import pkgutil
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import diagnostics.interventions
import diagnostics.probes
from diagnostics.bench import open_bench, private_randomness
from diagnostics.fault import HEADINGS, Fault, Verdict
from diagnostics.faults import CATALOGUE
from diagnostics.intervention import Intervention
from diagnostics.probe import Probe, read
from diagnostics.subject import LossHistory, Subject
from tests import subjects

SEED = 3
CURVE = tuple(1.2 + 2.0 * step**-0.5 for step in range(1, 62))
FEW = ("mlp", "gru")  # everything runs on these by default: one without a token view, one with every view
READ = (*FEW, "nn-transformer")  # probes that only run forward are read on this one too: time-first, padded, masked
CHANGED = (*FEW, "torch-encoder")  # changes are made to this one too: it has attention


def members(package: Any, kind: type) -> list[Any]:
    """Every module-level object of a kind in a package's modules, each once."""
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, kind)}
    return sorted(found.values(), key=lambda member: member.name)


PROBES: list[Probe] = members(diagnostics.probes, Probe)
INTERVENTIONS: list[Intervention] = members(diagnostics.interventions, Intervention)


def subject_of(name: str) -> Subject:
    """A healthy subject with a history, so that every probe has what it needs where that is possible at all."""
    return dataclasses.replace(subjects.HEALTHY[name](), history=LossHistory(losses=CURVE))


def on_every_subject() -> Iterator[Any]:
    """probe, subject name; by default on a few subjects."""
    for probe in PROBES:
        for name in subjects.HEALTHY:
            slow = name not in (FEW if probe.cost == "training" else READ)
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(probe, name, id=f"{probe.name}-{name}", marks=marks)


def by_value(subject: Subject) -> list[Any]:
    """Everything of a caller that a probe could have touched: parameters, buffers, gradients, modes, randomness."""
    model = subject.model
    tensors = [*model.parameters(), *model.buffers()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [
        *[t.detach().clone() for t in tensors],
        *grads,
        [p.requires_grad for p in model.parameters()],
        [module.training for module in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
    ]


def same(before: Any, after: Any) -> bool:
    """Equality by value, tensors included."""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return torch.equal(before, after)
    if isinstance(before, tuple) and isinstance(after, tuple):
        return len(before) == len(after) and all(map(same, before, after))
    return type(before) is type(after) and before == after


def plain(measurement: Any) -> Any:
    """A measurement as it comes back from a file."""
    return json.loads(json.dumps(dataclasses.asdict(measurement)))


def leaves(value: Any) -> Iterator[Any]:
    """Everything inside nested dictionaries, lists and tuples that is none itself."""
    if isinstance(value, dict):
        yield from (leaf for inner in value.values() for leaf in leaves(inner))
    elif isinstance(value, list | tuple):
        yield from (leaf for inner in value for leaf in leaves(inner))
    else:
        yield value


def without_nan(value: Any) -> Any:
    """The same structure, with lists for tuples and a word for NaN, which is not equal to itself."""
    if isinstance(value, dict):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


def test_a_module_holds_what_its_name_says() -> None:
    for package, found in ((diagnostics.probes, PROBES), (diagnostics.interventions, INTERVENTIONS)):
        modules = {module.name.replace("_", "-") for module in pkgutil.iter_modules(package.__path__)}
        assert {member.name for member in found} <= modules


def test_every_probe_of_the_catalogue_is_found() -> None:
    assert {probe.name for fault in CATALOGUE for probe in fault.measured_by} <= {probe.name for probe in PROBES}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_probe_asks_one_question(probe: Probe) -> None:
    assert probe.question.endswith("?")
    assert "\n" not in probe.question


@pytest.mark.parametrize(("probe", "name"), list(on_every_subject()))
def test_a_probe_measures_the_same_again_touches_nothing_and_survives_json(probe: Probe, name: str) -> None:
    subject = subject_of(name)
    missing = subject.missing(probe.needs)
    optimizers: list[Optimizer] = []

    def watched(model: torch.nn.Module) -> Optimizer:
        optimizers.append(subject.optimizer(model))
        return optimizers[-1]

    if missing is not None:
        assert read(probe, subject, SEED).reason == missing
        return
    subject.loss(subject.model, next(subject.batches(0))).backward()
    observed = dataclasses.replace(subject, optimizer=watched)  # the checks of the test run draw from python's random
    before = by_value(subject)
    with open_bench(observed, SEED) as bench:
        measurement = probe.measure(bench)
    assert [same(*pair) for pair in zip(before, by_value(subject), strict=True)] == [True] * len(before)
    own = {id(parameter) for parameter in subject.model.parameters()}
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert own.isdisjoint(held)
    assert_plain(measurement)
    torch.manual_seed(11)
    random.seed(11)
    second = subject_of(name)
    second.loss(second.model, next(second.batches(0)))  # batch norms of the first one have seen this batch too
    again = read(probe, second, SEED)
    assert without_nan(dataclasses.asdict(measurement)) == without_nan(dataclasses.asdict(again.measurement))


def assert_plain(measurement: Any) -> None:
    """The measurement is a frozen dataclass of numbers, strings and None that a file gives back unchanged."""
    assert dataclasses.is_dataclass(measurement)
    assert type(measurement).__dataclass_params__.frozen  # type: ignore[attr-defined]
    facts = dataclasses.asdict(measurement)
    assert {type(leaf) for leaf in leaves(facts)} <= {int, float, str, bool, type(None)}
    assert without_nan(plain(measurement)) == without_nan(facts)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_a_probe_gives_a_reason_where_something_is_missing(probe: Probe) -> None:
    bare = dataclasses.replace(subjects.mlp(), token_view=None, text_view=None, history=None)
    reading = read(probe, bare, SEED)
    assert (reading.measurement is None) == (bare.missing(probe.needs) is not None)
    assert reading.reason == bare.missing(probe.needs)


def test_the_catalogue_is_sorted_and_has_no_id_twice() -> None:
    ids = [fault.id for fault in CATALOGUE]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: fault.id)
class TestEveryFault:
    """Card, id, neighbours, rank and examples."""

    def test_the_card_is_complete(self, fault: Fault) -> None:
        assert set(HEADINGS) <= set(fault.card.sections)
        assert fault.card.title.rstrip(".").partition(":")[0] not in fault.card.sections
        assert fault.card.title.endswith(".")
        assert f"Grade: {fault.grade}" in fault.card.sections["Judged by"]

    def test_the_file_is_named_like_the_fault(self, fault: Fault) -> None:
        assert fault.judge.__module__ == "diagnostics.faults." + fault.id.replace("-", "_")

    def test_what_it_looks_like_exists(self, fault: Fault) -> None:
        assert set(fault.looks_like) <= {other.id for other in CATALOGUE} - {fault.id}

    def test_the_rank_is_in_its_range(self, fault: Fault) -> None:
        assert 10 <= fault.repair_rank <= 99

    def test_wrong_and_right_are_python(self, fault: Fault) -> None:
        assert fault.wrong != fault.right
        for code in (fault.wrong, fault.right):
            assert code
            compile(code, fault.id, "exec")

    def test_it_names_what_it_is_measured_by(self, fault: Fault) -> None:
        assert fault.measured_by
        for probe in fault.measured_by:
            assert probe.name in fault.card.sections["Measured by"]


def forward_faults() -> list[Any]:
    """fault, subject name, where every probe only runs the model forward and the subject serves them all."""
    return [
        pytest.param(fault, name, id=f"{fault.id}-{name}")
        for fault in CATALOGUE
        for name in FEW
        if all(probe.cost == "forward" and not subject_of(name).missing(probe.needs) for probe in fault.measured_by)
    ]


@cache
def measurement_of(probe: Probe, name: str) -> Any:
    """The probe's measurement of a healthy subject."""
    return read(probe, subject_of(name), SEED).measurement


@pytest.mark.parametrize(("fault", "name"), forward_faults())
def test_a_judge_is_pure(fault: Fault, name: str) -> None:
    measurements = [measurement_of(probe, name) for probe in fault.measured_by]
    kept, state = copy.deepcopy(measurements), torch.get_rng_state()
    first, second = fault.judge(*measurements), fault.judge(*measurements)
    assert isinstance(first, Verdict)
    assert first == second or without_nan(first.numbers) == without_nan(second.numbers)
    assert without_nan([dataclasses.asdict(m) for m in measurements]) == without_nan(
        [dataclasses.asdict(m) for m in kept]
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(isinstance(number, int | float) for number in first.numbers.values())


def changes() -> list[Any]:
    """Every remedy and every planting, as a named function from subject to subject."""
    plants = [(f"plant-{fault.id}", fault.plant, ()) for fault in CATALOGUE if fault.plant is not None]
    cures = [(cure.name, cure.apply, cure.needs) for cure in INTERVENTIONS]
    return [
        pytest.param(change, name, id=f"{title}-{name}")
        for title, change, needs in [*cures, *plants]
        for name in CHANGED
        if subject_of(name).missing(needs) is None
    ]


@pytest.mark.parametrize(("change", "name"), changes())
def test_a_change_leaves_its_argument_alone(change: Callable[[Subject], Subject], name: str) -> None:
    subject = subject_of(name)
    fields = dict(vars(subject))
    before, batches = by_value(subject), copy.deepcopy(list(islice(subject.batches(0), 2)))
    with contextlib.suppress(ValueError), private_randomness(0):  # a refusal must leave it alone as well
        changed = change(subject)
        assert changed is not subject
        changed.loss(copy.deepcopy(changed.model), next(changed.batches(0)))
    assert [same(*pair) for pair in zip(before, by_value(subject), strict=True)] == [True] * len(before)
    assert [same(*pair) for pair in zip(batches, islice(subject.batches(0), 2), strict=True)] == [True] * 2
    assert vars(subject) == fields
