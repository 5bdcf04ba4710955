"""What a forward pass is seen to do, from outside."""

import torch
import torch.nn.functional as F
from torch import nn

from diagnostics.watch import ForwardWatch, head_input, watched_loss
from tests import subjects


def test_cross_entropy_is_seen_with_its_rows_and_targets() -> None:
    scores, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, -100, 1])
    with ForwardWatch() as watch:
        F.cross_entropy(scores, targets, label_smoothing=0.1, reduction="sum")
    (call,) = watch.losses
    assert (call.function, call.label_smoothing, call.reduction) == ("cross_entropy", 0.1, "sum")
    assert torch.equal(call.scores, scores[[0, 1, 2, 4]])
    assert call.targets.tolist() == [0, 1, 2, 1]


def test_classes_on_the_second_axis_come_last() -> None:
    scores, targets = torch.randn(2, 7, 3), torch.randint(7, (2, 3))
    with ForwardWatch() as watch:
        nn.CrossEntropyLoss()(scores, targets)
    (call,) = watch.losses
    assert torch.equal(call.scores, torch.stack([scores[b, :, t] for b in range(2) for t in range(3)]))
    assert torch.equal(call.targets, targets.flatten())


def test_an_index_to_ignore_of_ones_own_is_left_out() -> None:
    with ForwardWatch() as watch:
        F.nll_loss(torch.randn(3, 5).log_softmax(-1), torch.tensor([0, 3, 0]), ignore_index=0)
    (call,) = watch.losses
    assert (call.function, call.targets.tolist()) == ("nll_loss", [3])


def test_target_probabilities_count_as_their_likeliest_class() -> None:
    with ForwardWatch() as watch:
        F.cross_entropy(torch.randn(2, 3), torch.tensor([[0.1, 0.8, 0.1], [0.5, 0.2, 0.3]]))
    assert watch.losses[0].targets.tolist() == [1, 0]


def test_one_sample_without_a_batch_is_one_row() -> None:
    with ForwardWatch() as watch:
        F.cross_entropy(torch.randn(5), torch.tensor(2))
    assert (watch.losses[0].scores.shape, watch.losses[0].targets.tolist()) == ((1, 5), [2])


def test_every_spelling_of_softmax_is_seen_with_its_axis_from_the_end() -> None:
    scores = torch.randn(2, 3, 5)
    with ForwardWatch() as watch:
        outcomes = [
            F.softmax(scores, dim=-1),
            torch.softmax(scores, 1),
            scores.softmax(dim=0),
            nn.Softmax(dim=2)(scores),
        ]
    assert [axis for *_, axis in watch.softmaxes] == [-1, -2, -3, -1]
    assert all(given is scores for given, *_ in watch.softmaxes)
    assert all(seen is outcome for (_, seen, _), outcome in zip(watch.softmaxes, outcomes, strict=True))


def test_the_head_is_the_last_product_as_wide_as_the_classes() -> None:
    model = nn.Sequential(nn.Linear(3, 7), nn.Linear(7, 5), nn.Linear(5, 7))
    given = torch.randn(2, 3)
    with ForwardWatch() as watch:
        model(given)
    found = head_input(watch, 7)
    assert found is not None
    assert torch.equal(found, model[:2](given))
    assert head_input(watch, 11) is None


def test_a_tied_head_written_as_a_product_is_seen() -> None:
    hidden, embedding = torch.randn(2, 3, 5), nn.Embedding(11, 5)
    with ForwardWatch() as watch:
        _ = hidden @ embedding.weight.T
        torch.matmul(hidden, embedding.weight.T)
    assert head_input(watch, 11) is hidden
    assert len(watch.products) == 2


def test_watching_changes_nothing() -> None:
    subject = subjects.mlp()
    batch = next(subject.batches(0))
    loss, watch = watched_loss(subject, subject.model, batch)
    assert torch.equal(loss, subject.loss(subject.model, batch))
    assert len(watch.losses) == 1
    assert loss.requires_grad
    assert not watch.losses[0].scores.requires_grad


def test_nothing_is_recorded_afterwards() -> None:
    with ForwardWatch() as watch:
        pass
    F.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]))
    assert (watch.losses, watch.softmaxes, watch.products) == ([], [], [])
