"""A script is told what the subject made by hand is told: the same verdicts from the same model and data."""

from collections.abc import Callable
from itertools import islice

import pytest
from torch import nn

from diagnostics.bench import passes
from diagnostics.capture.captured import captured
from diagnostics.examination import look
from diagnostics.faults import CATALOGUE
from diagnostics.subject import Subject
from experiments.benchmarks import subjects
from tests.diagnostics.capture.training import watched


def trained(subject: Subject, steps: int = 13) -> Subject:
    """What the capture makes of an ordinary loop over a subject's model, data and optimizer."""
    optimizer = subject.optimizer(subject.model)
    batches = list(islice(passes(subject.batches, 0), steps))
    with watched(subject.name) as recording:
        for batch in batches:
            subject.model.train()
            optimizer.zero_grad()
            subject.loss(subject.model, batch).backward()
            if subject.clip_norm is not None:
                nn.utils.clip_grad_norm_(subject.model.parameters(), subject.clip_norm)
            optimizer.step()
    return captured(recording).subject


def verdicts(subject: Subject) -> dict[str, str]:
    return {
        each.fault.id: each.verdict.status
        for each in look(subject, CATALOGUE, seed=0, progress=lambda *_: None, costs=("forward",))
    }


def planted(fault: str, subject: Subject) -> Subject:
    return next(each for each in CATALOGUE if each.id == fault).plant(subject)


# Plants that change calls inside a model from outside, or the token view only, are in no script: they are left out.
CASES: dict[str, Callable[[], Subject]] = {
    "language model": subjects.torch_encoder,
    "encoder-decoder": subjects.encoder_decoder,
    "time first": subjects.nn_transformer,
    "classifier": subjects.mlp,
    "softmax": lambda: planted("softmax-before-cross-entropy", subjects.torch_encoder()),
}


SAMPLE = "a loop without a data loader shows a sample of its data"
HELD_OUT = "the loop has no validation"
TEXT = "a script shows neither its text nor how it generates"
HISTORY = "only what was seen training has a history"
SHAPE = "only a subject made by hand says what an argument means"
REASONS = {
    "duplicate-data": SAMPLE, "same-batch-again-and-again": SAMPLE, "tiny-epoch": SAMPLE, "unshuffled-batches": SAMPLE,
    "memorised-but-does-not-generalise": HELD_OUT, "validation-overlaps-training": HELD_OUT,
    "train-and-validation-from-different-distributions": HELD_OUT,
    "context-shorter-than-the-dependencies": TEXT, "generates-uniform-tokens": TEXT, "vocabulary-too-large": TEXT,
    "generation-differs-from-training": TEXT, "whole-sentences-as-tokens": TEXT,
    "at-the-entropy-floor": HISTORY, "history-keeps-the-graph": HISTORY, "needs-more-steps": HISTORY,
    "label-in-the-input": SHAPE,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_verdicts_are_those_of_the_subject_made_by_hand(name: str) -> None:
    by_hand, seen = verdicts(CASES[name]()), verdicts(trained(CASES[name]()))
    differences = {fault: (status, seen[fault]) for fault, status in by_hand.items() if seen[fault] != status}
    assert (seen["softmax-before-cross-entropy"] == "present") == (name == "softmax")
    assert set(differences) <= set(REASONS), differences
    assert all("not tested" in pair for pair in differences.values()), differences
