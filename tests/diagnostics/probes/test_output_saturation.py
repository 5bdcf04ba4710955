"""output-saturation on outputs that can be worked out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.probes.output_saturation import OutputState, output_saturation, output_state
from diagnostics.subject import Subject
from tests import subjects


def linear(weight: list[list[float]]) -> Subject:
    """Points on the three axes; class is the axis."""
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weight))
    return Subject(
        model=model,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        batches=lambda seed: iter([(torch.eye(3), torch.arange(3))]),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


def state_of(subject: Subject) -> OutputState:
    with open_bench(subject, 0) as bench:
        state = output_state(bench, bench.model)
    assert state is not None
    return state


def test_a_right_and_certain_model_is_one_hot_and_accurate() -> None:
    state = state_of(linear([[200.0, 0, 0], [0, 200.0, 0], [0, 0, 200.0]]))
    assert (state.one_hot_rows, state.accuracy, state.median_p, state.zero_gradients) == (1, 1, 1, 1)
    assert (state.distinct_argmax, state.rows, state.classes, state.matrices) == (3, 3, 3, 1)


def test_a_constant_row_is_recognised() -> None:
    state = state_of(linear([[9.0, 9, 9], [0, 0, 0], [0, 0, 0]]))
    assert state.constant_rows
    assert state.distinct_argmax == 1
    assert state.accuracy == pytest.approx(1 / 3)


def test_equal_logits_have_no_spread() -> None:
    state = state_of(linear([[0.0, 0, 0]] * 3))
    assert state.logit_std == 0
    assert state.median_p == pytest.approx(1 / 3)
    assert state.loss == pytest.approx(torch.tensor(3.0).log().item())


def test_a_softmax_in_front_of_the_loss_takes_the_gradient_away() -> None:
    subject = linear([[0, 200.0, 0], [0, 0, 200.0], [200.0, 0, 0]])
    doubled = replace(subject, loss=lambda m, batch: F.cross_entropy(m(batch[0]).softmax(-1), batch[1]))
    assert state_of(subject).zero_gradients == 0
    assert state_of(doubled).zero_gradients == 1


def test_only_what_can_be_built_has_a_fresh_state() -> None:
    with open_bench(replace(subjects.gru(), build=None), 0) as bench:
        found = output_saturation(bench)
    assert found.fresh is None
    assert found.standing is not None


def test_another_loss_is_not_measured() -> None:
    subject = replace(subjects.mlp(), loss=lambda model, batch: model(batch[0]).square().mean())
    with open_bench(subject, 0) as bench:
        assert output_saturation(bench).standing is None
