"""label-in-the-input: tables with the answer in them, and honest ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Verdict
from diagnostics.faults import label_in_the_input
from diagnostics.subject import Batch, Subject
from tests import subjects

FAULT = label_in_the_input.FAULT
VerdictOf = Callable[..., Verdict]
POINTS = torch.randn(503, 7, generator=torch.Generator().manual_seed(0))
CLASSES = (POINTS[:, 0] > 0).long() + (POINTS[:, 1] > 0.5).long()
PRICES = POINTS[:, 0] * 3 + POINTS[:, 1] ** 2


def table(features: Float[Tensor, "rows columns"], targets: Tensor) -> Subject:
    """A program that reads features and targets from one table, batch by batch, as a dict."""
    width, kinds = features.shape[1], 1 if targets.is_floating_point() else 3

    def batches(seed: int) -> Iterator[Batch]:
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
        for rows in order.split(29):
            yield {"x": features[rows], "y": targets[rows]}

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        scores = model(batch["x"])
        return F.mse_loss(scores[:, 0], batch["y"]) if kinds == 1 else F.cross_entropy(scores, batch["y"])

    build = subjects.seeded(lambda: nn.Sequential(nn.Linear(width, 11), nn.ReLU(), nn.Linear(11, kinds)))
    return replace(subjects.mlp(), model=build(0), build=build, batches=batches, heldout=None, loss=loss)


def joined(*columns: Float[Tensor, " rows"]) -> Float[Tensor, "rows _"]:
    return torch.cat([POINTS, *(column[:, None] for column in columns)], dim=1)


@pytest.mark.parametrize(
    "subject",
    [
        table(joined(CLASSES.float()), CLASSES),
        table(joined((CLASSES == 1).float()), CLASSES),
        table(joined(torch.tensor([3.0, -1.0, 0.5])[CLASSES]), CLASSES),
        table(joined(PRICES * 1.17), PRICES),
    ],
    ids=["label", "indicator", "renamed", "price-with-tax"],
)
def test_the_answer_among_the_features_is_found_and_can_be_hidden(subject: Subject, verdict_of: VerdictOf) -> None:
    assert verdict_of(FAULT, subject).status == "present"
    assert verdict_of(FAULT, FAULT.remedies[0].apply(subject)).status == "absent"


@pytest.mark.parametrize(
    "subject",
    [
        table(POINTS, CLASSES),
        table(POINTS, PRICES),
        table(joined(PRICES + 0.01 * POINTS[:, 3]), PRICES),
        table(joined(torch.zeros(503)), CLASSES),
    ],
    ids=["classes", "prices", "a-good-feature", "a-constant"],
)
def test_honest_features_are_silent(subject: Subject, verdict_of: VerdictOf) -> None:
    assert verdict_of(FAULT, subject).status == "absent"


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_healthy_subjects_are_silent_and_plants_fire(name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert verdict_of(FAULT, subject).status in ("absent", "not tested")
    assert FAULT.plant is not None
    if name in ("mlp", "vision", "regression"):
        assert verdict_of(FAULT, FAULT.plant(subject)).status == "present"
    else:
        with pytest.raises(ValueError, match="has no label per row"):
            FAULT.plant(subject)


def test_a_token_that_is_asked_for_again_is_no_leak(verdict_of: VerdictOf) -> None:
    class Recall(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 7), nn.Linear(7, 5)

        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch classes"]:
            return self.head(self.embedding(tokens)[:, 0])

    tokens = torch.randint(5, (499, 11), generator=torch.Generator().manual_seed(0))
    build = subjects.seeded(Recall)
    subject = replace(
        subjects.mlp(),
        model=build(0),
        build=build,
        heldout=None,
        batches=lambda seed: zip(tokens.split(31), tokens[:, 0].split(31), strict=True),
    )
    assert verdict_of(FAULT, subject).status == "not tested"
