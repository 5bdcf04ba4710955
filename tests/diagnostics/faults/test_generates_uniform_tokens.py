"""generates-uniform-tokens: softmax twice and temperatures, and what is only a taste."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Verdict
from diagnostics.faults import generates_uniform_tokens, generation_differs_from_training
from diagnostics.subject import Subject
from tests import subjects

UNIFORM, DIFFERS = generates_uniform_tokens.FAULT, generation_differs_from_training.FAULT
VerdictOf = Callable[..., Verdict]
Change = Callable[[Tensor], Tensor]


def generating(name: str, change: Change) -> Subject:
    """A healthy subject whose scores pass through something before they are sampled from."""
    subject = subjects.HEALTHY[name]()
    view = subject.token_view
    assert view is not None

    def next_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        assert view.next_logits is not None
        return change(view.next_logits(model, tokens))

    return replace(subject, token_view=replace(view, next_logits=next_logits))


@pytest.mark.parametrize("name", ["torch-encoder", "gru", "gpt2", "encoder-decoder"])
@pytest.mark.parametrize("change", [lambda s: s.softmax(-1), lambda s: s / 100], ids=["softmax", "cold"])
def test_flattened_scores_are_named(name: str, change: Change, verdict_of: VerdictOf) -> None:
    assert verdict_of(UNIFORM, generating(name, change)).status == "present"


@pytest.mark.parametrize("name", ["torch-encoder", "gru", "gpt2", "encoder-decoder"])
@pytest.mark.parametrize(
    "change", [lambda s: s.log_softmax(-1), lambda s: s / 0.8, lambda s: s / 1.5], ids=["log", "0.8", "1.5"]
)
def test_log_probabilities_and_usual_temperatures_are_no_alarm(
    name: str, change: Change, verdict_of: VerdictOf
) -> None:
    subject = generating(name, change)
    assert verdict_of(UNIFORM, subject).status == "absent"
    assert verdict_of(DIFFERS, subject).status == "absent"


def test_the_remedy_samples_from_the_training_path(verdict_of: VerdictOf) -> None:
    planted = generating("gru", lambda s: s.softmax(-1))
    assert verdict_of(UNIFORM, UNIFORM.remedies[0].apply(planted)).status == "absent"


def test_a_subject_that_does_not_generate_cannot_carry_it() -> None:
    assert UNIFORM.plant is not None
    with pytest.raises(ValueError, match="mlp does not say how it generates"):
        UNIFORM.plant(subjects.mlp())
