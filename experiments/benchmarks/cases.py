"""The benchmark's cases: healthy variants, planted faults, and pairs of faults, each made again from its own words.

A case is plain data and its key is its name in the record, so a run that was stopped goes on where it was.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from diagnostics.bench import open_bench, private_randomness
from diagnostics.fault import ALARMING, Fault
from diagnostics.faults import CATALOGUE
from diagnostics.subject import LossHistory, Subject
from experiments.benchmarks.subjects import HEALTHY, NORM_FIRST, SIZED

CALIBRATION = ("encoder-decoder", "torch-encoder", "gru", "gpt2", "mlp", "seq2seq")
"""Subjects that thresholds may be set on."""

REPORTED = ("decoder-only", "nn-transformer", "t5", "bert", "vision", "regression")
"""Subjects whose figures are reported: no threshold is set on them."""

Kind = Literal["healthy", "planted", "pair"]
FAULTS = {fault.id: fault for fault in CATALOGUE}
SEED_STRIDE = 1009  # between the seeds that two variants of one subject use for weights and data
HISTORY_STEPS = 40  # that half of the planted setups have been trained for when they are looked at

SIZES: tuple[dict[str, Any], ...] = ({}, {"layers": 3}, {"width": 22, "dropout": 0.2}, {"width": 14, "layers": 1})
"""What a planted subject is built with, by the case's seed: as it is, deeper, wider, smaller."""

SGD_TIMES = 20.0  # SGD with momentum 0.9 learns well at this many times Adam's rate on these subjects; ours, measured

OPTIMIZERS: dict[str, Callable[[nn.Module, float], Optimizer]] = {
    "adamw": lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr),
    "adam": lambda model, lr: torch.optim.Adam(model.parameters(), lr=lr),
    "rmsprop": lambda model, lr: torch.optim.RMSprop(model.parameters(), lr=lr / 3),
    "sgd": lambda model, lr: torch.optim.SGD(model.parameters(), lr=SGD_TIMES * lr, momentum=0.9),
}
"""Name -> model, the subject's own Adam rate -> an optimizer with a rate that it learns well at."""


UNSUITED = {("bert", "sgd")}
"""No healthy setups: BERT under SGD stands at 3.06 of 3.09 nats after 120 steps."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One diagnosis to make.

    Args:
        kind: what is expected: nothing, one fault, or two.
        subject: name of the healthy subject.
        faults: ids of what is planted, in the order of planting.
        seed: of weights and data.
        trained: optimizer steps that the setup has behind it.
        optimizer: name in OPTIMIZERS; empty for the subject's own.
        sizes: arguments of the subject's builder, as (name, value) pairs.
    """

    kind: Kind
    subject: str
    faults: tuple[str, ...] = ()
    seed: int = 0
    trained: int = 0
    optimizer: str = ""
    sizes: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """The case in words; the same for the same case."""
        sizes = ",".join(f"{name}={value}" for name, value in self.sizes)
        parts = (self.kind, self.subject, "+".join(self.faults), f"seed={self.seed}", f"trained={self.trained}")
        return " ".join(part for part in (*parts, self.optimizer, sizes) if part)


def make(case: Case) -> Subject:
    """The case's subject, with its faults planted and its steps behind it.

    Raises:
        ValueError: the subject cannot carry one of the faults.
    """
    with private_randomness(case.seed):
        subject = reseeded(healthy(case), case.seed)
        for fault in case.faults:
            plant = FAULTS[fault].plant
            if plant is None:
                raise ValueError(f"{fault} has no planting")
            subject = plant(subject)
        return trained(subject, case.trained, case.seed)


def healthy(case: Case) -> Subject:
    """The healthy subject in the case's sizes and with its optimizer."""
    subject = SIZED[case.subject](**dict(case.sizes)) if case.sizes else HEALTHY[case.subject]()
    if not case.optimizer:
        return subject
    rate = subject.optimizer(subject.model).param_groups[0]["lr"]
    return replace(subject, optimizer=lambda model: OPTIMIZERS[case.optimizer](model, rate))


def reseeded(subject: Subject, seed: int) -> Subject:
    """The subject with weights and data of other seeds."""
    build, batches, shift = subject.build, subject.batches, SEED_STRIDE * seed
    if not seed or build is None:
        return subject
    return replace(
        subject,
        model=build(shift),
        build=lambda inner: build(inner + shift),
        batches=lambda inner: batches(inner + shift),
    )


def trained(subject: Subject, steps: int, seed: int) -> Subject:
    """The subject after these steps, with their losses as its history; as it is where it cannot be trained."""
    if not steps:
        return subject
    try:
        with open_bench(subject, seed) as bench:
            losses = bench.train(bench.fresh_batches(), steps)
    except Exception:  # a planted fault may be one that no training survives
        return subject
    return replace(subject, model=bench.model, history=LossHistory(losses=tuple(losses)))


def healthy_cases(count: int, subjects: Sequence[str]) -> list[Case]:
    """Healthy variants: subjects in turn; sizes, norms, dropouts, optimizers, seeds and states drawn at random."""
    draw = random.Random(0)
    cases: dict[str, Case] = {}
    while len(cases) < count:
        name = subjects[len(cases) % len(subjects)]
        sizes: dict[str, Any] = {}
        if name in SIZED:
            sizes = {"width": draw.choice((14, 16, 22, 34)), "layers": draw.choice((1, 2, 3))}
            sizes["dropout"] = draw.choice((0.0, 0.1, 0.2))
        if name in NORM_FIRST:
            sizes["norm_first"] = draw.choice((False, True))
        case = Case(
            kind="healthy",
            subject=name,
            seed=draw.randrange(1, 100),
            trained=draw.choice((0, 0, 50, 150)),
            optimizer=draw.choice([each for each in OPTIMIZERS if (name, each) not in UNSUITED]),
            sizes=tuple(sizes.items()),
        )
        cases[case.key] = case
    return list(cases.values())


def planted_cases(seeds: int, subjects: Sequence[str], faults: Sequence[str]) -> list[Case]:
    """Every fault in every subject, once for each seed: other sizes for each, every second one with steps behind it."""
    return [
        Case(
            kind="planted",
            subject=name,
            faults=(fault,),
            seed=seed,
            trained=HISTORY_STEPS * (seed % 2),
            sizes=tuple(SIZES[seed % len(SIZES)].items()) if name in SIZED else (),
        )
        for seed in range(seeds)
        for fault in faults
        if FAULTS[fault].plant is not None
        for name in subjects
    ]


def pair_cases(count: int, subjects: Sequence[str], faults: Sequence[str]) -> Iterator[Case]:
    """Random pairs of alarming faults that one subject can carry together, neither a consequence of the other."""
    draw = random.Random(1)
    known = [FAULTS[each] for each in faults if FAULTS[each].plant is not None and FAULTS[each].grade in ALARMING]
    found, tried = 0, 0
    while found < count and tried < 20 * count and len(known) > 1:
        tried += 1
        first, second = draw.sample(known, 2)
        case = Case(kind="pair", subject=draw.choice(list(subjects)), faults=(first.id, second.id), seed=tried)
        if not related(first, second) and carries(case):
            found += 1
            yield case


def related(one: Fault, other: Fault) -> bool:
    """Whether one of two faults is known to bring the other about."""
    return one.id in other.follows_from or other.id in one.follows_from


def carries(case: Case) -> bool:
    """Whether the subject can carry the faults of the case."""
    try:
        make(replace(case, trained=0))
    except ValueError:
        return False
    return True
