"""Targets that are all one class, and ids that the model has no room for."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import head_vocabulary_mismatch, labels_constant
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
FAULTS = [head_vocabulary_mismatch.FAULT, labels_constant.FAULT]


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_alone(fault: Fault, name: str, verdict_of: Judge) -> None:
    healthy = subjects.HEALTHY[name]()
    assert verdict_of(fault, healthy).status in ("absent", "not tested")
    assert fault.plant is not None
    if name == "regression" or (fault is head_vocabulary_mismatch.FAULT and healthy.text_view is None):
        with pytest.raises(ValueError, match=r"calls neither|no text view"):
            fault.plant(healthy)
        return
    faulty = fault.plant(healthy)
    found = [other.id for other in FAULTS if verdict_of(other, faulty).status == "present"]
    assert found == [fault.id]


def labelled(labels: Callable[[Tensor, int], Tensor], count: int = 7) -> Subject:
    """A classifier of points with labels from (points, index of the batch)."""

    def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        for index in range(count):
            points = torch.randn(19, 5, generator=generator)
            yield points, labels(points, index)

    return replace(subjects.mlp(), batches=batches, heldout=None)


def test_labels_that_are_never_true_are_found(verdict_of: Judge) -> None:
    assert verdict_of(labels_constant.FAULT, labelled(lambda x, _: (x[:, 0] > 99).long())).status == "present"
    assert verdict_of(labels_constant.FAULT, labelled(lambda x, _: (x[:, 0] > 1).long())).status == "absent"


def test_batches_in_the_order_of_their_class_raise_no_alarm(verdict_of: Judge) -> None:
    by_class = labelled(lambda x, index: torch.full((len(x),), index // 3))
    assert verdict_of(labels_constant.FAULT, by_class).status == "absent"
    many = labelled(lambda x, index: torch.full((len(x),), index // 60), count=100)
    assert verdict_of(labels_constant.FAULT, many).status == "unclear"
    sample = replace(labelled(lambda x, _: torch.zeros(len(x)).long()), whole_data=False)
    assert verdict_of(labels_constant.FAULT, sample).status == "unclear"


def test_labels_that_the_loss_makes_are_seen_there(verdict_of: Judge) -> None:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), (batch[1] == 99).long())

    assert verdict_of(labels_constant.FAULT, replace(subjects.mlp(), loss=loss)).status == "present"


def with_room_for(table: int, head: int) -> Subject:
    """The recurrent language model with as many rows and classes."""

    class Sized(subjects.GruLM):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(table, 19), nn.Linear(31, head)

    build = subjects.seeded(Sized)
    return replace(subjects.gru(), model=build(0), build=build)


@pytest.mark.parametrize(("table", "head"), [(20, 23), (23, 20)])
def test_a_table_or_head_that_is_too_small_is_found(table: int, head: int, verdict_of: Judge) -> None:
    assert verdict_of(head_vocabulary_mismatch.FAULT, with_room_for(table, head)).status == "present"


def test_room_to_spare_raises_no_alarm(verdict_of: Judge) -> None:
    assert verdict_of(head_vocabulary_mismatch.FAULT, with_room_for(64, 64)).status == "absent"


def test_ids_taken_modulo_are_known_from_the_text(verdict_of: Judge) -> None:
    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        return F.cross_entropy(model(tokens[:, :-1] % 20).flatten(0, 1), tokens[:, 1:].flatten() % 20)

    verdict = verdict_of(head_vocabulary_mismatch.FAULT, replace(with_room_for(20, 20), loss=loss))
    assert (verdict.status, "23 tokens" in verdict.because) == ("present", True)
