"""A subject is described by what it can do, and says what it lacks."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from diagnostics.subject import LossHistory
from tests import subjects


def test_a_subject_that_has_what_is_needed_lacks_nothing() -> None:
    assert subjects.gru().missing(("token_view", "token_view.next_logits", "text_view", "build", "heldout")) is None
    assert subjects.mlp().missing(()) is None


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        ("token_view", "this subject has no token view"),
        ("token_view.next_logits", "this subject has no token view"),
        ("text_view", "this subject has no text view"),
        ("history", "this subject has no history"),
    ],
)
def test_what_is_missing_is_named(need: str, reason: str) -> None:
    assert subjects.mlp().missing(("build", need)) == reason


def test_a_part_of_a_capability_can_be_missing() -> None:
    subject = subjects.gru()
    assert subject.token_view is not None
    silent = replace(subject, token_view=replace(subject.token_view, next_logits=None))
    assert silent.missing(("token_view",)) is None
    assert silent.missing(("token_view.next_logits",)) == "this subject's token view has no next_logits"


def test_a_need_that_no_subject_has_is_our_bug() -> None:
    with pytest.raises(AttributeError, match="tokens_view"):
        subjects.gru().missing(("tokens_view",))


def test_a_history_gives_numbers_and_keeps_its_tensors() -> None:
    loss = torch.tensor(0.5, requires_grad=True) * 3
    history = LossHistory(losses=(2.0, loss))
    assert history.values() == [2.0, 1.5]
    assert history.losses[1] is loss


def test_a_subject_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        subjects.mlp().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_healthy_subjects_keep_the_contract_of_their_views(name: str) -> None:
    subject = subjects.HEALTHY[name]()
    view = subject.token_view
    if view is None:
        pytest.skip(f"{name} has no tokens")
    batch = next(subject.batches(0))
    stream, targets = view.tokens(batch), view.targets(batch)
    assert torch.equal(view.tokens(view.with_tokens(batch, stream.flip(0))), stream.flip(0))
    assert torch.equal(targets, stream if name == "t5" else stream[:, 1:])  # t5 puts its start token in front itself
    assert view.logits(subject.model, batch).shape == (*targets.shape, view.vocab_size)
