"""unknown-tokens and uneven-batch-average."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import uneven_batch_average, unknown_tokens
from diagnostics.probes.token_use import filler
from diagnostics.subject import Batch, Subject
from tests import subjects

UNKNOWN, UNEVEN = unknown_tokens.FAULT, uneven_batch_average.FAULT
VerdictOf = Callable[..., Verdict]


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", [UNKNOWN, UNEVEN], ids=lambda fault: fault.id)
def test_healthy_subjects_are_silent_and_plants_fire(fault: Fault, name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert verdict_of(fault, subject).status in ("absent", "not tested")
    assert fault.plant is not None
    try:
        planted = fault.plant(subject)
    except ValueError as error:
        assert "token view" in str(error) or "cost about the same" in str(error)  # noqa: PT017 - it is what is tested
        return
    assert verdict_of(fault, planted).status == "present"


def encoded(kept: int, *, named: bool) -> Subject:
    """A word-level program whose vocabulary lacks all words but ``kept``."""

    def ids(tokens: Tensor) -> Tensor:
        return torch.where(tokens < kept, tokens, torch.full_like(tokens, subjects.VOCAB - 1))

    subject = subjects.gru()
    text = subject.text_view
    assert text is not None
    named_text = replace(text, token_bytes=[*text.token_bytes[:-1], b"[UNK]"])
    return replace(
        subject,
        batches=lambda seed: map(ids, subjects.windows(subjects.TRAIN)(seed)),
        text_view=named_text if named else None,
    )


@pytest.mark.parametrize(
    ("kept", "named", "status"),
    [(3, True, "present"), (3, False, "present"), (13, True, "present"), (13, False, "absent"), (20, True, "absent")],
)
def test_a_vocabulary_that_does_not_fit_the_text(kept: int, named: bool, status: str, verdict_of: VerdictOf) -> None:
    assert verdict_of(UNKNOWN, encoded(kept, named=named)).status == status


def test_padding_is_not_counted(verdict_of: VerdictOf) -> None:
    def padded(seed: int) -> Iterator[Tensor]:
        for batch in subjects.windows(subjects.TRAIN)(seed):
            rows = batch % 22 + 1
            rows[:, 3:] = 0
            yield rows

    subject = replace(subjects.gru(), batches=padded, text_view=None)
    assert verdict_of(UNKNOWN, subject).status == "absent"


def test_a_filler_stands_at_the_ends_alone() -> None:
    rows = torch.tensor([[5, 3, 0, 0], [2, 0, 0, 0], [7, 7, 2, 3]])
    expected = torch.tensor([[False, False, True, True], [False, True, True, True], [True, True, False, False]])
    assert torch.equal(filler(rows), expected)
    assert not filler(torch.tensor([[5, 0, 0], [0, 3, 2], [2, 0, 4]]))[0].any()


POINTS = torch.randn(3 * 97 + 2, 5, generator=torch.Generator().manual_seed(0))
LABELS = (POINTS[:, 0] > 0).long()
LABELS[-2:] = 2  # the last batch is small and costly


def evaluated(*, by_target: bool, last: int) -> Subject:
    """A program with a validation loop of its own over three full batches and a last one."""

    def batches(seed: int) -> Iterator[Batch]:
        every = POINTS[: 3 * 97 + last], LABELS[: 3 * 97 + last]
        yield from zip(every[0].split(97), every[1].split(97), strict=True)

    def evaluate(model: nn.Module) -> float:
        total, count = 0.0, 0
        for x, y in batches(0):
            weight = len(y) if by_target else 1
            total, count = total + float(F.cross_entropy(model(x), y)) * weight, count + weight
        return total / count

    def make() -> nn.Module:
        model = nn.Linear(5, 3)
        nn.init.constant_(model.bias, 0.0)
        model.bias.data[2] = -7.0
        return model

    build = subjects.seeded(make)
    return replace(subjects.mlp(), model=build(0), build=build, heldout=batches, evaluate=evaluate)


@pytest.mark.parametrize(
    ("by_target", "last", "status"), [(False, 2, "present"), (True, 2, "absent"), (False, 0, "absent")]
)
def test_a_short_costly_last_batch_weighs_too_much(
    by_target: bool, last: int, status: str, verdict_of: VerdictOf
) -> None:
    assert verdict_of(UNEVEN, evaluated(by_target=by_target, last=last)).status == status
