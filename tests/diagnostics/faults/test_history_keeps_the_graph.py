"""Recorded losses that keep the graphs of their steps alive, and the numbers that do not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from diagnostics.fault import Verdict
from diagnostics.faults.history_keeps_the_graph import FAULT, PLANTED
from diagnostics.interventions.keep_plain_losses import KEEP_PLAIN_LOSSES
from diagnostics.probe import read
from diagnostics.probes.graph_retention import GRAPH_RETENTION
from diagnostics.subject import LossHistory, Subject
from tests import subjects

assert FAULT.plant is not None
plant: Callable[[Subject], Subject] = FAULT.plant


@pytest.mark.parametrize("make", subjects.HEALTHY.values(), ids=subjects.HEALTHY.keys())
def test_planted_loss_tensors_fire_and_plain_losses_cure(
    make: Callable[[], Subject], verdict_of: Callable[..., Verdict]
) -> None:
    planted = plant(make())
    assert verdict_of(FAULT, planted).status == "present"
    assert verdict_of(FAULT, KEEP_PLAIN_LOSSES.apply(planted)).status == "absent"
    assert verdict_of(FAULT, make()).status == "not tested"


def test_nodes_are_counted_once() -> None:
    weight = torch.ones(3, requires_grad=True)
    losses = tuple((weight * step).sum() for step in range(5))
    retention = read(GRAPH_RETENTION, subjects.with_history(subjects.mlp(), []), 0).measurement
    assert (retention.entries, retention.with_graph, retention.nodes) == (0, 0, 0)
    held = replace(subjects.mlp(), history=LossHistory(losses=(0.5, *losses)))
    retention = read(GRAPH_RETENTION, held, 0).measurement
    # Each loss: a sum, a product, and the one weight that all of them share.
    assert (retention.entries, retention.tensors, retention.with_graph, retention.walked) == (6, 5, 5, 5)
    assert (retention.nodes_per_entry, retention.nodes) == (3, 5 * 2 + 1)


def test_saved_tensors_are_counted_until_backward_frees_them() -> None:
    weight = torch.ones(7, requires_grad=True)
    loss = (weight * weight).sum()
    held = replace(subjects.mlp(), history=LossHistory(losses=(loss,)))
    assert read(GRAPH_RETENTION, held, 0).measurement.saved_bytes == 7 * 4
    loss.backward()
    assert read(GRAPH_RETENTION, held, 0).measurement.saved_bytes == 0


def test_detached_tensors_are_harmless(verdict_of: Callable[..., Verdict]) -> None:
    detached = tuple(torch.tensor(float(step)) for step in range(PLANTED))
    assert verdict_of(FAULT, replace(subjects.mlp(), history=LossHistory(losses=detached))).status == "absent"


def test_the_loss_of_the_step_in_progress_decides_nothing(verdict_of: Callable[..., Verdict]) -> None:
    newest = torch.ones(2, requires_grad=True).sum()
    held = replace(subjects.mlp(), history=LossHistory(losses=(0.5, 0.4, newest)))
    assert verdict_of(FAULT, held).status == "unclear"


def test_a_subject_without_a_history_has_no_losses_to_turn_into_numbers() -> None:
    with pytest.raises(ValueError, match="mlp has no history"):
        KEEP_PLAIN_LOSSES.apply(subjects.mlp())
