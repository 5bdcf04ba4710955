"""Padding among the targets that count, and padding that is left out in the ways in which people leave it out."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Verdict
from diagnostics.faults.padding_counted_in_loss import FAULT
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
Loss = Callable[[nn.Module, Tensor], Tensor]
PADDING = subjects.VOCAB - 1
CANNOT = ("t5", "bert", "vision", "mlp", "regression")


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_planted_fault_fires_and_the_remedy_cures(name: str, verdict_of: Judge) -> None:
    healthy = subjects.HEALTHY[name]()
    assert verdict_of(FAULT, healthy).status in ("absent", "not tested")
    assert FAULT.plant is not None
    if name in CANNOT:
        with pytest.raises(ValueError, match=r"cannot be filled up|calls neither"):
            FAULT.plant(healthy)
        return
    faulty = FAULT.plant(healthy)
    assert verdict_of(FAULT, faulty).status == "present"
    assert verdict_of(FAULT, FAULT.remedies[0].apply(faulty)).status == "absent"


def with_rows_of(lengths: tuple[int, ...], loss: Loss) -> Subject:
    """The recurrent language model on rows that are filled up behind these lengths, with no token view to say so."""

    def batches(seed: int) -> Iterator[Tensor]:
        for tokens in subjects.windows(subjects.TRAIN)(seed):
            kept = torch.tensor([lengths[i % len(lengths)] for i in range(len(tokens))])
            beyond = torch.arange(tokens.shape[1])[None] >= kept[:, None]
            yield tokens.clamp_max(PADDING - 1).masked_fill(beyond, PADDING)

    return replace(subjects.gru(), batches=batches, token_view=None, text_view=None, loss=loss)


def counted(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def counted_by_hand(model: nn.Module, tokens: Tensor) -> Tensor:
    return -model(tokens[:, :-1]).log_softmax(-1).gather(2, tokens[:, 1:, None]).mean()


def counted_step_by_step(model: nn.Module, tokens: Tensor) -> Tensor:
    scores = model(tokens[:, :-1])
    return torch.stack([F.cross_entropy(scores[:, t], tokens[:, t + 1]) for t in range(scores.shape[1])]).mean()


def ignored(model: nn.Module, tokens: Tensor) -> Tensor:
    scores = model(tokens[:, :-1]).transpose(1, 2)
    return F.cross_entropy(scores, tokens[:, 1:], ignore_index=PADDING)


def masked(model: nn.Module, tokens: Tensor) -> Tensor:
    each = F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:], reduction="none")
    counts = (tokens[:, 1:] != PADDING).float()
    return (each * counts).sum() / counts.sum()


def relabelled(model: nn.Module, tokens: Tensor) -> Tensor:
    labels = tokens[:, 1:].masked_fill(tokens[:, 1:] == PADDING, -100)
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("loss", [counted, counted_by_hand, counted_step_by_step], ids=lambda loss: loss.__name__)
def test_rows_of_different_lengths_give_padding_away(loss: Loss, verdict_of: Judge) -> None:
    verdict = verdict_of(FAULT, with_rows_of((12, 9, 7, 5), loss))
    assert verdict.status == "present"
    assert verdict.numbers["padding id"] == PADDING


@pytest.mark.parametrize("loss", [ignored, masked, relabelled], ids=lambda loss: loss.__name__)
def test_padding_that_is_left_out_raises_no_alarm(loss: Loss, verdict_of: Judge) -> None:
    assert verdict_of(FAULT, with_rows_of((12, 9, 7, 5), loss)).status == "absent"


def test_one_end_of_text_per_row_may_count(verdict_of: Judge) -> None:
    assert verdict_of(FAULT, with_rows_of((11, 12), counted)).status == "absent"


def test_an_embedding_names_padding_that_fills_all_rows_alike(verdict_of: Judge) -> None:
    class Named(subjects.GruLM):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(subjects.VOCAB, 19, padding_idx=PADDING)

    build = subjects.seeded(Named)
    subject = replace(with_rows_of((9,), counted), model=build(0), build=build)
    assert verdict_of(FAULT, subject).status == "present"
    assert verdict_of(FAULT, with_rows_of((9,), counted)).status == "absent"  # nobody says that this is padding
