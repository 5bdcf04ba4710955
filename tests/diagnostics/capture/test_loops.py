"""Loops as strangers write them: watched, they compute what they compute alone; played again, the same once more."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from diagnostics.capture.captured import Captured, captured
from diagnostics.capture.observer import Observer
from diagnostics.capture.recording import Recording
from tests.diagnostics.capture.loops import IN_TWO_PARTS, INEXACT, LOOPS, UNPLAYABLE, UNSEEN

every = pytest.mark.parametrize("name", LOOPS)
playable = pytest.mark.parametrize("name", [name for name in LOOPS if name not in UNPLAYABLE])


def alone(name: str) -> tuple[list[float], list[Any], list[int]]:
    """Losses, every number left, and the random state of torch afterwards (in tests beartype draws from Python's)."""
    torch.manual_seed(11)
    losses, kept = LOOPS[name]()
    return losses, numbers(kept), torch.get_rng_state().tolist()


def numbers(kept: Any) -> list[Any]:
    """The values of parameters, buffers and tensors among what a loop leaves."""
    values = list(kept) if isinstance(kept, tuple | list) else [kept]
    nested = [each for value in values if isinstance(value, tuple | list) for each in numbers(value)]
    modules = [list(value.state_dict().values()) for value in values if isinstance(value, nn.Module)]
    plain = [value.detach().clone() for value in values if isinstance(value, torch.Tensor)]
    return [*nested, *(t.clone() for each in modules for t in each), *plain]


def watched(name: str) -> tuple[Recording, Any]:
    """The recording of a loop, and what `alone` gives."""
    recording = Recording(name=name)
    with Observer(recording):
        seen = alone(name)
    return recording, seen


def subject(name: str) -> Captured:
    """What a loop is captured as; the loop's own objects stay alive until then."""
    recording = Recording(name=name)
    torch.manual_seed(11)
    with Observer(recording):
        kept = LOOPS[name]()
    assert kept
    return captured(recording)


@every
def test_a_watched_loop_computes_what_it_computes_alone(name: str) -> None:
    losses, values, randomness = alone(name)
    _, (seen_losses, seen_values, seen_randomness) = watched(name)
    assert losses == seen_losses
    assert randomness == seen_randomness
    assert len(values) == len(seen_values) > 0
    assert all(torch.equal(one, other) for one, other in zip(values, seen_values, strict=True))


@playable
def test_a_recorded_loop_is_played_again_to_the_last_digit(name: str) -> None:
    found = subject(name)
    assert bool(found.reproduction.seen) == (name not in UNSEEN)
    assert found.reproduction.exact != (name in {*INEXACT, *UNSEEN}), found.subject.notes


@playable
def test_a_captured_loop_gives_finite_losses_with_gradients(name: str) -> None:
    found = subject(name).subject
    batch = next(found.batches(0))
    found.loss(found.model, batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in found.model.parameters() if p.grad is not None)
    assert isinstance(found.optimizer(found.model), Optimizer)


@pytest.mark.parametrize("name", UNPLAYABLE)
def test_what_cannot_be_played_again_has_a_reason(name: str) -> None:
    recording, _ = watched(name)
    with pytest.raises(ValueError, match=UNPLAYABLE[name]) as caught:
        captured(recording)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", IN_TWO_PARTS)
def test_passes_on_another_kind_of_loss_are_counted(name: str) -> None:
    said = " ".join(subject(name).subject.notes)
    assert re.search(rf"\b{IN_TWO_PARTS[name]} backward passes on another kind of loss were left out", said)
