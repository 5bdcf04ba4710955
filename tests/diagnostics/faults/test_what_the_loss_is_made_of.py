"""Faults of the loss itself: what counts in it, how much, and whether it can be learned from."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    all_targets_ignored,
    auxiliary_loss_dominates,
    forward_without_gradient,
    label_smoothing_too_strong,
    loss_averaged_twice,
    loss_summed,
    loss_without_gradient,
    nll_loss_without_log,
    softmax_before_cross_entropy,
)
from diagnostics.interventions.undo_softmax import UNDO_SOFTMAX
from diagnostics.probe import read
from diagnostics.probes.loss_account import LOSS_ACCOUNT
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
Loss = Callable[[nn.Module, Tensor], Tensor]

FAULTS = [
    module.FAULT
    for module in (
        all_targets_ignored,
        auxiliary_loss_dominates,
        forward_without_gradient,
        label_smoothing_too_strong,
        loss_averaged_twice,
        loss_summed,
        loss_without_gradient,
        nll_loss_without_log,
    )
]


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_planted_fault_fires_and_the_remedy_cures(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert fault.plant is not None
    if name == "regression" and "without-gradient" not in fault.id:
        with pytest.raises(ValueError, match="calls neither"):
            fault.plant(subjects.HEALTHY[name]())
        return
    faulty = fault.plant(subjects.HEALTHY[name]())
    assert verdict_of(fault, faulty).status == "present"
    for remedy in fault.remedies if name != "regression" else ():
        assert verdict_of(fault, remedy.apply(faulty)).status == "absent"


def logits_and_targets(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of logits and their targets."""
    return model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()


def written_out(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return -logits.log_softmax(-1).gather(1, targets[:, None]).mean()


def written_with_indices(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return -torch.log(logits.softmax(-1) + 1e-9)[torch.arange(len(targets)), targets].mean()


def written_with_one_hot(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return -(F.one_hot(targets, subjects.VOCAB).float() * logits.log_softmax(-1)).sum(-1).mean()


def written_with_normaliser(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return (logits.logsumexp(-1) - logits.gather(1, targets[:, None])[:, 0]).mean()


def accumulated(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets) / 4  # one of four steps whose gradients are added


def with_small_penalty(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets) + 1e-4 * logits.logsumexp(-1).pow(2).mean()


def masked_by_hand(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    counts = (targets != 3).float()
    return (F.cross_entropy(logits, targets, reduction="none") * counts).sum() / counts.sum()


def step_by_step(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    losses = [F.cross_entropy(logits[:, t], tokens[:, t + 1]) for t in range(logits.shape[1])]
    return torch.stack(losses).mean()


def summed_under_adam(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets, reduction="sum")


HARMLESS: list[Loss] = [
    written_out,
    written_with_indices,
    written_with_one_hot,
    written_with_normaliser,
    accumulated,
    with_small_penalty,
    masked_by_hand,
    step_by_step,
    summed_under_adam,
]


@pytest.mark.parametrize("loss", HARMLESS, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("fault", [*FAULTS, softmax_before_cross_entropy.FAULT], ids=lambda fault: fault.id)
def test_what_people_write_and_mean_raises_no_alarm(fault: Fault, loss: Loss, verdict_of: Judge) -> None:
    assert verdict_of(fault, replace(subjects.gru(), loss=loss)).status in ("absent", "unclear")


def averaged_over_samples(model: nn.Module, tokens: Tensor) -> Tensor:
    return subjects.next_token_loss(model, tokens) / tokens.size(0)


def averaged_over_positions(model: nn.Module, tokens: Tensor) -> Tensor:
    return written_out(model, tokens) / (tokens.shape[1] - 1)


def rewrapped(model: nn.Module, tokens: Tensor) -> Tensor:
    return torch.tensor(subjects.next_token_loss(model, tokens).item(), requires_grad=True)


def of_classes(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    guesses = 9 * F.one_hot(logits.argmax(-1), subjects.VOCAB).float()
    return F.cross_entropy(guesses, targets)


def through_data(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits.data, targets).requires_grad_()


def without_gradients(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets).requires_grad_()


def nll_of_logits(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return nn.NLLLoss()(logits, targets)


def strong_penalty(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets) + 10 * logits.logsumexp(-1).pow(2).mean()


def heavy_decay(model: nn.Module, tokens: Tensor) -> Tensor:
    return subjects.next_token_loss(model, tokens) + 0.5 * sum(p.norm() for p in model.parameters())


def share_for_smoothing(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets, label_smoothing=0.9)


def smoothed_by_hand(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    rows = 0.4 * F.one_hot(targets, subjects.VOCAB).float() + 0.6 / subjects.VOCAB
    return -(rows * logits.log_softmax(-1)).sum(-1).mean()


def labels_all_hidden(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return F.cross_entropy(logits, targets.masked_fill(targets >= 0, -100))


def softmax_twice_by_hand(model: nn.Module, tokens: Tensor) -> Tensor:
    logits, targets = logits_and_targets(model, tokens)
    return -F.log_softmax(logits.softmax(-1), -1).gather(1, targets[:, None]).mean()


WRITTEN_IN: list[tuple[Fault, Loss]] = [
    (loss_averaged_twice.FAULT, averaged_over_samples),
    (loss_averaged_twice.FAULT, averaged_over_positions),
    (loss_without_gradient.FAULT, rewrapped),
    (loss_without_gradient.FAULT, of_classes),
    (loss_without_gradient.FAULT, through_data),
    (forward_without_gradient.FAULT, without_gradients),
    (nll_loss_without_log.FAULT, nll_of_logits),
    (auxiliary_loss_dominates.FAULT, strong_penalty),
    (auxiliary_loss_dominates.FAULT, heavy_decay),
    (label_smoothing_too_strong.FAULT, share_for_smoothing),
    (label_smoothing_too_strong.FAULT, smoothed_by_hand),
    (all_targets_ignored.FAULT, labels_all_hidden),
    (softmax_before_cross_entropy.FAULT, softmax_twice_by_hand),
]


@pytest.mark.parametrize(("fault", "loss"), WRITTEN_IN, ids=lambda each: getattr(each, "__name__", None))
def test_what_a_stranger_writes_is_found_and_nothing_else(fault: Fault, loss: Loss, verdict_of: Judge) -> None:
    subject = replace(subjects.gru(), loss=loss)
    verdict = verdict_of(fault, subject)
    assert verdict.status == "present", verdict.because
    for other in [*FAULTS, softmax_before_cross_entropy.FAULT]:
        assert other is fault or verdict_of(other, subject).status != "present"


def test_a_double_softmax_that_is_written_out_is_undone(verdict_of: Judge) -> None:
    subject = UNDO_SOFTMAX.apply(replace(subjects.gru(), loss=softmax_twice_by_hand))
    assert verdict_of(softmax_before_cross_entropy.FAULT, subject).status == "absent"


def test_a_summed_loss_matters_where_steps_grow_with_the_gradient(verdict_of: Judge) -> None:
    def descent(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
        return lambda model: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)

    summed = replace(subjects.gru(), loss=summed_under_adam, clip_norm=None)
    statuses = [verdict_of(loss_summed.FAULT, replace(summed, optimizer=descent(rate))).status for rate in (0.1, 1e-4)]
    assert statuses == ["present", "unclear"]


def weights(subject: Subject) -> float | None:
    """The sum of the targets' weights."""
    measurement = read(LOSS_ACCOUNT, subject, 0).measurement
    assert measurement is not None
    assert measurement.share is not None
    return measurement.share.weight


def test_weights_of_targets_sum_to_what_the_loss_makes_of_them() -> None:
    gru, targets = subjects.gru(), subjects.BATCH * subjects.CONTEXT
    sums = [weights(replace(gru, loss=loss)) for loss in (written_out, summed_under_adam, accumulated, masked_by_hand)]
    assert sums == pytest.approx([1, targets, 0.25, 1], rel=1e-4)
