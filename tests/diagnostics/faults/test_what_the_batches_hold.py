"""Faults of the data that show in the batches: repetition, order, copies, and what is held out."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    duplicate_data,
    same_batch_again_and_again,
    train_and_validation_from_different_distributions,
    unshuffled_batches,
    validation_overlaps_training,
)
from diagnostics.subject import Batch, Subject
from tests import subjects

SAME, COPIES = same_batch_again_and_again.FAULT, duplicate_data.FAULT
ORDER, OVERLAP = unshuffled_batches.FAULT, validation_overlaps_training.FAULT
ELSEWHERE = train_and_validation_from_different_distributions.FAULT
ALL = (SAME, COPIES, ORDER, OVERLAP, ELSEWHERE)
VerdictOf = Callable[..., Verdict]
POINTS = torch.randn(499, 5, generator=torch.Generator().manual_seed(0))
LABELS = (POINTS[:, 0] > 0).long() + (POINTS[:, 1] > 0).long()
NEW = torch.randn(211, 5, generator=torch.Generator().manual_seed(1))


def loader_of(points: Tensor, *, shuffle: bool, seed: int, size: int = 31) -> DataLoader[Any]:
    labels = (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(points, labels), batch_size=size, shuffle=shuffle, generator=generator)


def subject_of(batches: Callable[[int], Iterator[Batch]], heldout: Tensor | None = NEW, **changes: Any) -> Subject:
    held = None if heldout is None else lambda seed: iter(loader_of(heldout, shuffle=False, seed=0))
    return replace(subjects.mlp(), batches=batches, heldout=held, **changes)


def shuffled(seed: int) -> Iterator[Batch]:
    yield from loader_of(POINTS, shuffle=True, seed=seed)


def in_order(seed: int) -> Iterator[Batch]:
    yield from loader_of(POINTS, shuffle=False, seed=seed)


def endless(seed: int) -> Iterator[Batch]:
    yield from cycle(list(loader_of(POINTS, shuffle=True, seed=seed)))


def drawn_with_replacement(seed: int) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(97, (31,), generator=generator)
        yield POINTS[rows], LABELS[rows]


def several_epochs(seed: int) -> Iterator[Batch]:
    for epoch in range(3):
        yield from loader_of(POINTS[:97], shuffle=True, seed=seed + epoch)


def first_of_a_new_loader(seed: int) -> Iterator[Batch]:
    for _ in range(20):
        yield next(iter(loader_of(POINTS, shuffle=False, seed=seed)))


def sorted_by_label(seed: int) -> Iterator[Batch]:
    yield from loader_of(POINTS[LABELS.argsort()], shuffle=False, seed=0)


def with_copies(seed: int) -> Iterator[Batch]:
    yield from loader_of(POINTS[:61].repeat(8, 1), shuffle=True, seed=seed)


def copies_side_by_side(seed: int) -> Iterator[Batch]:
    yield from islice(loader_of(POINTS.repeat_interleave(4, 0), shuffle=False, seed=seed), 61)


def full_batch(seed: int) -> Iterator[Batch]:
    while True:
        yield POINTS, LABELS


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.id)
@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_healthy_subject_has_none_and_a_planted_one_has_it(fault: Fault, name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert verdict_of(fault, subject).status in ("absent", "not tested")
    assert fault.plant is not None
    try:
        planted = fault.plant(subject)
    except ValueError as error:
        assert "label" in str(error) or "inputs" in str(error)  # noqa: PT017 - the reason is what is tested
        return
    assert verdict_of(fault, planted).status == "present"


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.id)
@pytest.mark.parametrize("batches", [shuffled, in_order, endless, drawn_with_replacement, several_epochs, full_batch])
def test_usual_ways_to_make_batches_are_no_alarm(fault: Fault, batches: Any, verdict_of: VerdictOf) -> None:
    assert verdict_of(fault, subject_of(batches)).status != "present"


@pytest.mark.parametrize(
    ("fault", "batches"),
    [(SAME, first_of_a_new_loader), (ORDER, sorted_by_label), (COPIES, with_copies), (COPIES, copies_side_by_side)],
)
def test_other_peoples_loops_are_caught_and_by_one_fault_alone(
    fault: Fault, batches: Any, verdict_of: VerdictOf
) -> None:
    found = [each.id for each in ALL if verdict_of(each, subject_of(batches)).status == "present"]
    assert found == [fault.id]


def test_one_batch_may_be_all_of_the_data(verdict_of: VerdictOf) -> None:
    verdict = verdict_of(SAME, subject_of(full_batch, heldout=None))
    assert verdict.status == "unclear"
    assert "this may be all of them" in verdict.because


@pytest.mark.parametrize("fault", [SAME, COPIES, ORDER], ids=lambda fault: fault.id)
def test_a_sample_of_the_data_says_nothing(fault: Fault, verdict_of: VerdictOf) -> None:
    subject = subject_of(first_of_a_new_loader, whole_data=False)
    assert verdict_of(fault, subject).status == "not tested"


@pytest.mark.parametrize("fault", [ORDER, COPIES], ids=lambda fault: fault.id)
def test_a_remedy_takes_order_and_copies_away(fault: Fault, verdict_of: VerdictOf) -> None:
    assert fault.plant is not None
    planted = fault.plant(subjects.mlp())
    assert verdict_of(fault, fault.remedies[0].apply(planted)).status == "absent"


def test_one_class_throughout_is_seen_by_what_is_held_out(verdict_of: VerdictOf) -> None:
    def one_class(seed: int) -> Iterator[Batch]:
        yield from loader_of(POINTS[LABELS == 1], shuffle=True, seed=seed)

    assert verdict_of(ORDER, subject_of(one_class)).status == "present"
    assert verdict_of(ORDER, subject_of(one_class, heldout=None)).status == "unclear"


def test_values_sorted_by_size_are_an_order_too(verdict_of: VerdictOf) -> None:
    def regression(order: Tensor) -> Subject:
        rows = POINTS[order]
        return replace(
            subjects.mlp(),
            batches=lambda seed: zip(rows.split(31), rows[:, 0].split(31), strict=True),
            loss=lambda model, batch: F.mse_loss(model(batch[0])[:, 0], batch[1]),
        )

    assert verdict_of(ORDER, regression(POINTS[:, 0].argsort())).status == "present"
    assert verdict_of(ORDER, regression(torch.arange(499))).status == "absent"


def windows_of(stream: Tensor, step: int, width: int = 12) -> Tensor:
    return stream.unfold(0, width, step).contiguous()


def split_windows(rows: Tensor, share: float = 0.8) -> Subject:
    """Windows of one stream, mixed and split: what random_split does to them."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    cut = int(share * len(rows))
    return replace(
        subjects.gru(),
        batches=lambda seed: iter(rows[order[:cut]].split(13)),
        heldout=lambda seed: iter(rows[order[cut:]].split(13)),
        text_view=None,
    )


def test_overlapping_windows_split_at_random_share_their_text(verdict_of: VerdictOf) -> None:
    verdict = verdict_of(OVERLAP, split_windows(windows_of(subjects.TRAIN, 1)))
    assert verdict.status == "present"
    assert "windows of one text" in verdict.because
    assert verdict_of(OVERLAP, split_windows(windows_of(subjects.TRAIN, 12))).status == "absent"


def test_what_is_left_after_the_remedy_shares_nothing(verdict_of: VerdictOf) -> None:
    half = torch.cat([subjects.TRAIN[:2003], subjects.HELDOUT])
    subject = replace(subjects.gru(), heldout=lambda seed: iter(windows_of(half, 12).split(13)), text_view=None)
    cured = OVERLAP.remedies[0].apply(replace(subject, heldout=subject.heldout))
    assert verdict_of(OVERLAP, cured).status == "absent"
    assert cured.heldout is not None
    assert len(list(cured.heldout(0))) > 5


def test_held_out_rows_that_are_a_part_of_the_training_rows_are_found(verdict_of: VerdictOf) -> None:
    assert verdict_of(OVERLAP, subject_of(shuffled, heldout=torch.cat([NEW[:100], POINTS[:100]]))).status == "present"
    assert verdict_of(OVERLAP, subject_of(shuffled)).status == "absent"


def test_poor_rows_coincide_and_decide_nothing(verdict_of: VerdictOf) -> None:
    def bits(seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(17):
            points = torch.randint(2, (31, 5), generator=generator).float()
            yield points, points[:, 0].long()

    subject = replace(subjects.mlp(), batches=bits, heldout=lambda seed: bits(seed + 100))
    assert verdict_of(OVERLAP, subject).status == "unclear"
    assert verdict_of(COPIES, subject).status == "unclear"


def test_another_tokenizer_on_what_is_held_out_is_seen(verdict_of: VerdictOf) -> None:
    other = torch.randperm(subjects.VOCAB, generator=torch.Generator().manual_seed(3))
    chain = replace(
        subjects.gru(), heldout=lambda seed: (other[b] // 2 for b in subjects.windows(subjects.HELDOUT)(seed))
    )
    assert verdict_of(ELSEWHERE, chain).status == "present"
    assert verdict_of(ELSEWHERE, subjects.gru()).status == "absent"


def test_inputs_that_are_not_normalised_are_seen(verdict_of: VerdictOf) -> None:
    assert verdict_of(ELSEWHERE, subject_of(shuffled, heldout=NEW * 3 + 7)).status == "present"
    assert verdict_of(ELSEWHERE, subject_of(shuffled, heldout=NEW * 1.2 + 0.2)).status == "absent"


def test_time_first_batches_have_their_rows_on_the_second_axis(verdict_of: VerdictOf) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(2, 7), nn.Linear(7, 3)

        def forward(self, points: Tensor) -> Tensor:
            return self.head(self.rnn(points)[0][-1])

    paths = torch.randn(11, 311, 2, generator=torch.Generator().manual_seed(0))
    labels = paths[0, :, 0].argsort().argsort() * 3 // 311

    def batches(order: Tensor) -> Callable[[int], Iterator[Batch]]:
        return lambda seed: zip(paths[:, order].split(17, dim=1), labels[order].split(17), strict=True)

    build = subjects.seeded(Last)
    subject = replace(subjects.mlp(), model=build(0), build=build, batch_axis=1, heldout=None)
    assert verdict_of(ORDER, replace(subject, batches=batches(labels.argsort()))).status == "present"
    assert verdict_of(ORDER, replace(subject, batches=batches(torch.arange(311)))).status == "absent"


def test_a_text_that_repeats_itself_is_no_overlap_and_a_copied_one_is(verdict_of: VerdictOf) -> None:
    def reading(train: Tensor, heldout: Tensor) -> Subject:
        view = subjects.gru().text_view
        assert view is not None
        return replace(subjects.gru(), text_view=replace(view, train_tokens=train, heldout_tokens=heldout))

    refrain = subjects.TRAIN[:701].repeat(7)
    assert verdict_of(OVERLAP, reading(refrain, refrain[:1009])).status == "unclear"
    assert verdict_of(OVERLAP, reading(subjects.TRAIN, subjects.TRAIN[500:1700])).status == "present"
    assert verdict_of(OVERLAP, reading(subjects.TRAIN, subjects.HELDOUT)).status == "absent"
