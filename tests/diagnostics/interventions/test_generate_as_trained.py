"""Generation by the training path: what is sampled from is then what was learned."""

from dataclasses import replace

import pytest
import torch

from diagnostics.faults.generation_differs_from_training import FAULT
from diagnostics.interventions.generate_as_trained import GENERATE_AS_TRAINED
from tests import subjects


@pytest.mark.parametrize("name", ["gru", "encoder-decoder"])
def test_a_softmax_planted_in_generation_is_gone_again(name: str) -> None:
    sound = subjects.HEALTHY[name]()
    assert FAULT.plant is not None
    assert sound.token_view is not None
    mended = GENERATE_AS_TRAINED.apply(FAULT.plant(sound)).token_view
    assert mended is not None
    assert mended.next_logits is not None
    assert sound.token_view.next_logits is not None
    context = next(sound.batches(0))[:3, :-1]
    expected = sound.token_view.next_logits(sound.model, context).detach()
    torch.testing.assert_close(mended.next_logits(sound.model, context), expected)


def test_a_view_that_makes_no_batch_from_tokens_alone_is_refused() -> None:
    subject = subjects.gru()
    assert subject.token_view is not None

    def stubborn(batch: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("I insist on my own rows")

    view = replace(subject.token_view, with_tokens=stubborn)
    with pytest.raises(ValueError, match="makes no batch from two rows of tokens alone"):
        GENERATE_AS_TRAINED.apply(replace(subject, token_view=view))
