"""Attentions that have chosen before anything was learned, and those that have not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from torch import nn

from diagnostics.fault import Verdict
from diagnostics.faults import attention_collapsed
from diagnostics.subject import Subject
from tests import subjects
from tests.diagnostics.strange_attention import HandLM, causal, language_model

COLLAPSED = attention_collapsed.FAULT
VerdictOf = Callable[..., Verdict]


def drawn(std: float | None) -> Subject:
    """A stranger's language model whose matrices are all drawn with one standard deviation; None: torch's own."""

    def make() -> nn.Module:
        model = HandLM(causal)
        for parameter in model.parameters():
            if std is not None and parameter.dim() > 1:
                nn.init.normal_(parameter, std=std)
        return model

    return language_model(make)


@pytest.mark.parametrize("std", [None, 0.02, 21**-0.5])
def test_usual_draws_raise_no_alarm(std: float | None, verdict_of: VerdictOf) -> None:
    assert verdict_of(COLLAPSED, drawn(std)).status == "absent"


def test_matrices_of_unit_normal_numbers_and_more_are_named(verdict_of: VerdictOf) -> None:
    verdict = verdict_of(COLLAPSED, drawn(2.0))
    assert verdict.status == "present"
    assert "before any training" in verdict.because


def test_a_model_without_a_fresh_one_may_have_learned_it(verdict_of: VerdictOf) -> None:
    assert verdict_of(COLLAPSED, replace(drawn(2.0), build=None)).status == "unclear"


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_healthy_subjects_raise_no_alarm(name: str, verdict_of: VerdictOf) -> None:
    assert verdict_of(COLLAPSED, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("name", ["torch-encoder", "decoder-only", "seq2seq", "t5"])
def test_plants_are_found(name: str, verdict_of: VerdictOf) -> None:
    assert verdict_of(COLLAPSED, attention_collapsed.plant(subjects.HEALTHY[name]())).status == "present"


def test_a_plant_needs_attention() -> None:
    with pytest.raises(ValueError, match="are not found"):
        attention_collapsed.plant(subjects.HEALTHY["mlp"]())
