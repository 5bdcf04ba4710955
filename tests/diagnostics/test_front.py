"""The two-line form and the whole subject come to the same examination, and leave everything as it was."""

from typing import Any

import pytest
import torch
from torch import nn

from diagnostics import Budget, Subject, diagnose, subject_from
from diagnostics.faults import CATALOGUE
from tests.diagnostics.test_adapt import CROSS_ENTROPY, TOKENS, same, values
from tests.subjects import TRAIN, GruLM, TorchEncoderLM, next_token_loss, windows

FEW = ("softmax-before-cross-entropy", "future-token-leak", "batch-coupling", "parameters-not-in-the-optimizer")
QUICK = tuple(fault for fault in CATALOGUE if fault.id in FEW)
BUDGET = Budget(seeds=(0, 1), one_batch_steps=3, fresh_steps=3, alone_steps=3, workers=1)


class Leaky(TorchEncoderLM):
    """The language model without its mask."""

    def forward(self, tokens: Any) -> Any:
        return self.head(self.encoder(self.embedding(tokens) + self.positions[: tokens.shape[1]]))


def found(diagnosis: Any) -> list[str]:
    return [cause.id for cause in diagnosis.causes]


def test_two_lines_find_what_is_wrong_and_leave_everything_as_it_was() -> None:
    model = Leaky()
    optimizer = torch.optim.AdamW(list(model.parameters())[:-1], lr=3e-3)
    next_token_loss(model, TOKENS).backward()
    optimizer.step()
    model.encoder.eval()
    things = (model.state_dict(), {n: p.grad for n, p in model.named_parameters()}, optimizer.state_dict(), TOKENS)
    modes, before, numbers = [m.training for m in model.modules()], values(*things), torch.get_rng_state()
    diagnosis = diagnose(model, TOKENS, next_token_loss, optimizer=optimizer, faults=QUICK, budget=BUDGET)
    assert set(found(diagnosis)) == {"future-token-leak", "parameters-not-in-the-optimizer"}
    assert same(values(*things), before)
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(torch.get_rng_state(), numbers)


def test_a_subject_is_examined_as_it_is() -> None:
    subject = subject_from(Leaky(), list(windows(TRAIN)(0)), CROSS_ENTROPY, optimizer=torch.optim.AdamW, name="mine")
    diagnosis = diagnose(subject, faults=QUICK, budget=BUDGET)
    assert (diagnosis.subject, found(diagnosis)) == ("mine", ["future-token-leak"])


def test_the_healthy_one_has_no_fault() -> None:
    diagnosis = diagnose(GruLM(), list(windows(TRAIN)(0)), CROSS_ENTROPY, faults=QUICK, budget=BUDGET)
    assert found(diagnosis) == []
    assert diagnosis.subject == "GruLM (trained with AdamW at 0.001, as no optimizer was given)"


def test_what_does_not_belong_together_is_refused() -> None:
    subject = subject_from(nn.Linear(5, 5), torch.randn(7, 5), nn.MSELoss())
    with pytest.raises(TypeError, match="a Subject brings its own batches, loss and settings"):
        diagnose(subject, TOKENS)
    with pytest.raises(TypeError, match="diagnose needs a batch"):
        diagnose(GruLM())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_subject_with_a_compiled_model_is_refused() -> None:
    model = GruLM()
    model.compile()
    subject = Subject(
        model=model,
        loss=next_token_loss,
        batches=lambda seed: iter([TOKENS]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters()),
    )
    with pytest.raises(ValueError, match="compiled models are out of scope"):
        diagnose(subject)
