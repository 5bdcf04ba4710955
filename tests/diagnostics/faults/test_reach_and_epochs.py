"""context-shorter-than-the-dependencies and tiny-epoch."""

import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diagnostics.fault import Verdict
from diagnostics.faults import context_shorter_than_the_dependencies, tiny_epoch
from diagnostics.subject import Subject
from tests import subjects

REACH, TINY = context_shorter_than_the_dependencies.FAULT, tiny_epoch.FAULT
VerdictOf = Callable[..., Verdict]
LANGUAGE_MODELS = ["torch-encoder", "gru", "gpt2", "encoder-decoder"]


def reading(text: Tensor) -> Subject:
    """A language model whose training text is this one."""
    subject = subjects.gru()
    view = subject.text_view
    assert view is not None
    return replace(subject, text_view=replace(view, train_tokens=text))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_text_that_speaks_from_afar_is_found(name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert REACH.plant is not None
    assert verdict_of(REACH, subject).status == "absent"
    verdict = verdict_of(REACH, REACH.plant(subject))
    assert verdict.status == "present"
    assert "the window holds 11 tokens; the token 16 back" in verdict.because


def test_english_letter_by_letter_speaks_from_near(verdict_of: VerdictOf) -> None:
    text = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))[:50_000]
    letters = torch.tensor([ord(letter) % subjects.VOCAB for letter in text])
    assert verdict_of(REACH, reading(letters)).status == "absent"


def test_noise_speaks_from_nowhere(verdict_of: VerdictOf) -> None:
    noise = torch.randint(subjects.VOCAB, (5003,), generator=torch.Generator().manual_seed(0))
    assert verdict_of(REACH, reading(noise)).status == "absent"


def test_a_period_within_the_window_is_no_alarm(verdict_of: VerdictOf) -> None:
    drawn = torch.randint(subjects.VOCAB, (7,), generator=torch.Generator().manual_seed(0))
    assert verdict_of(REACH, reading(drawn.repeat(701))).status == "absent"


def test_a_text_too_short_gives_a_reason(verdict_of: VerdictOf) -> None:
    assert "too short for a context of 11" in verdict_of(REACH, reading(torch.arange(23))).because


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_pass_of_three_batches_is_said(name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert TINY.plant is not None
    assert verdict_of(TINY, subject).status == "absent"
    assert verdict_of(TINY, TINY.plant(subject)).status == "present"
    assert verdict_of(TINY, replace(TINY.plant(subject), whole_data=False)).status == "not tested"


def test_a_fixed_list_of_many_batches_is_no_tiny_epoch(verdict_of: VerdictOf) -> None:
    def batches(seed: int) -> Iterator[Tensor]:
        yield from subjects.windows(subjects.TRAIN)(0)

    assert verdict_of(TINY, replace(subjects.gru(), batches=batches)).status == "absent"
