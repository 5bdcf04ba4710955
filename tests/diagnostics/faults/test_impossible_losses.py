"""answer-leaks-into-the-input and memorised-but-does-not-generalise."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Verdict
from diagnostics.faults import answer_leaks_into_the_input, memorised_but_does_not_generalise, targets_not_shifted
from diagnostics.subject import Subject
from tests import subjects

LEAKS, MEMORISED = answer_leaks_into_the_input.FAULT, memorised_but_does_not_generalise.FAULT
VerdictOf = Callable[..., Verdict]


class Shift(nn.Module):
    """A model without attention that mixes its window by a convolution; padded on both sides it sees what follows."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(subjects.VOCAB, 19), nn.Linear(19, subjects.VOCAB)
        self.mix, self.causal = nn.Conv1d(19, 19, 3, padding=2 if causal else 1), causal

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        mixed = self.mix(self.embedding(tokens).transpose(1, 2))[..., : tokens.shape[1]]
        return self.head(mixed.transpose(1, 2).relu())


def convolution(*, causal: bool) -> Subject:
    build = subjects.seeded(lambda: Shift(causal=causal))
    return replace(subjects.gru(), name="convolution", model=build(0), build=build)


@pytest.mark.parametrize(("causal", "status"), [(True, "absent"), (False, "present")])
def test_a_convolution_that_sees_what_follows_beats_the_bound(causal: bool, status: str, verdict_of: VerdictOf) -> None:
    verdict = verdict_of(LEAKS, convolution(causal=causal))
    assert verdict.status == status
    assert "without seeing them none can be below 1.609" in verdict.because


@pytest.mark.parametrize("name", ["gru", "encoder-decoder"])
def test_honest_models_stay_above_the_bound(name: str, verdict_of: VerdictOf) -> None:
    verdict = verdict_of(LEAKS, subjects.HEALTHY[name]())
    assert verdict.status == "absent"
    assert verdict.numbers["loss"] > verdict.numbers["bound"] - 3 * verdict.numbers["error"]


def test_targets_that_are_given_to_the_model_beat_the_bound_and_explain_it(verdict_of: VerdictOf) -> None:
    assert targets_not_shifted.FAULT.plant is not None
    assert verdict_of(LEAKS, targets_not_shifted.FAULT.plant(subjects.torch_encoder())).status == "present"
    assert "targets-not-shifted" in LEAKS.follows_from


def test_a_batch_of_one_kind_of_token_gives_a_reason(verdict_of: VerdictOf) -> None:
    constant = replace(subjects.gru(), batches=lambda seed: iter([torch.full((5, 12), 3)] * 3))
    verdict = verdict_of(LEAKS, constant)
    assert verdict.status == "not tested"
    assert "has 1 types of targets" in verdict.because


@pytest.mark.parametrize("name", ["mlp", "gru", "regression"])
def test_a_batch_learned_by_heart_is_explained_and_a_fresh_model_is_not(name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert MEMORISED.plant is not None
    assert verdict_of(MEMORISED, subject).status == "absent"
    assert verdict_of(MEMORISED, MEMORISED.plant(subject)).status == "present"


def test_nothing_can_be_said_where_nothing_is_held_out(verdict_of: VerdictOf) -> None:
    subject = replace(subjects.mlp(), heldout=None)
    assert verdict_of(MEMORISED, subject).because == "this subject has no heldout"
    assert MEMORISED.plant is not None
    with pytest.raises(ValueError, match="mlp holds nothing out"):
        MEMORISED.plant(subject)
