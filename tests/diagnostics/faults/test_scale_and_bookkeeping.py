"""Scale, saturation, bookkeeping and deviations: fire where planted, are silent elsewhere, go with the remedy."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    embedding_scale,
    no_final_norm,
    no_gradient_clipping,
    parameters_not_in_the_optimizer,
    parameters_not_registered,
    per_position_affine,
    positions_added_twice,
    saturated_output,
    untied_head,
)
from diagnostics.interventions.final_norm import head_weight, norm_before_head, without_final_norm
from diagnostics.interventions.tie_weights import tie_weights
from diagnostics.interventions.untie_weights import untie_weights
from diagnostics.probes.output_saturation import OutputSaturation, OutputState
from diagnostics.probes.parameters import Parameters
from diagnostics.probes.stream_scale import StreamScale
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]

FAULTS = [
    module.FAULT
    for module in (
        embedding_scale,
        no_final_norm,
        no_gradient_clipping,
        parameters_not_in_the_optimizer,
        parameters_not_registered,
        per_position_affine,
        positions_added_twice,
        saturated_output,
        untied_head,
    )
]
SWITCHED = (
    "embedding-scale",
    "no-final-norm",
    "parameters-not-registered",
    "per-position-affine",
    "positions-added-twice",
    "untied-head",
)
CARRIES = {
    "embedding-scale": ("torch-encoder", "gru", "gpt2", "encoder-decoder"),
    "no-final-norm": ("torch-encoder", "gpt2", "encoder-decoder"),
    "no-gradient-clipping": ("torch-encoder", "gpt2", "encoder-decoder"),
    "parameters-not-in-the-optimizer": ("torch-encoder", "gru", "gpt2", "mlp", "encoder-decoder"),
    "parameters-not-registered": ("torch-encoder", "gru", "gpt2", "encoder-decoder"),
    "per-position-affine": ("gpt2", "encoder-decoder"),
    "positions-added-twice": ("torch-encoder", "gpt2", "encoder-decoder"),
    "saturated-output": ("torch-encoder", "gru", "gpt2", "mlp", "encoder-decoder"),
    "untied-head": ("gpt2", "encoder-decoder"),
}
"""Which healthy subjects a fault can be planted in."""
DEPARTS = {
    ("untied-head", "torch-encoder"),
    ("untied-head", "nn-transformer"),
    ("no-gradient-clipping", "vision"),
}
"""Healthy subjects that depart from the recipe: a deviation may say so."""


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    expected = ("present",) if (fault.id, name) in DEPARTS else ("absent", "not tested")
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in expected


@pytest.mark.parametrize(("fault", "name"), [(fault, name) for fault in FAULTS for name in CARRIES[fault.id]])
def test_what_is_planted_is_found_and_goes_with_the_remedy(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert fault.plant is not None
    planted = fault.plant(subjects.HEALTHY[name]())
    assert verdict_of(fault, planted).status == "present"
    remedy = fault.remedy_for(planted)
    assert remedy is not None
    assert verdict_of(fault, remedy.apply(planted)).status == "absent"


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.id in SWITCHED], ids=lambda fault: fault.id)
def test_a_switch_is_found_and_goes_with_the_remedy(fault: Fault, verdict_of: Judge) -> None:
    subject = subjects.encoder_decoder(**{fault.id.replace("-", "_"): True})
    assert verdict_of(fault, subject).status == "present"
    assert verdict_of(fault, fault.remedies[0].apply(subject)).status == "absent"


def test_drowned_tokens_leave_the_scale_open() -> None:
    small = StreamScale(width=16, token_rms=0.02, position_rms=0.7)
    assert embedding_scale.judge(small).status == "unclear"
    assert embedding_scale.judge(replace(small, position_rms=0.02)).status == "absent"


def test_a_head_that_follows_the_embedding_without_norms_is_no_pre_norm_stack() -> None:
    recurrent = StreamScale(head_gain=4.0, normalised_inputs=0.0)
    assert no_final_norm.judge(recurrent).status == "absent"
    assert no_final_norm.judge(replace(recurrent, normalised_inputs=0.6)).status == "present"


@pytest.mark.parametrize(
    ("gain", "training", "status"),
    [
        (8.0, (4.0, 4.0 + 4 / 0.9), "present"),
        (8.0, (0.0, 8 / 0.9), "absent"),
        (8.0, (8.0, 8.0), "unclear"),  # twice sqrt(16), and no dropout that could tell
        (2.0, (2.0, 2.0), "unclear"),
        (4.0, (4.0, 4.0), "absent"),
        (1.0, (1.0, 1.0), "absent"),
        (3.0, (2.0, 2 + 1 / 0.9), "unclear"),  # something goes around the dropout, but no half of it
    ],
)
def test_two_copies_are_told_from_a_factor_of_two(gain: float, training: tuple[float, float], status: str) -> None:
    scale = StreamScale(width=16, token_rms=gain, position_rms=0.7, token_gain=gain, training_gains=training)
    assert positions_added_twice.judge(scale).status == status


def test_without_positions_none_can_be_added_twice() -> None:
    scale = StreamScale(width=16, token_rms=2.0, position_rms=1e-9, token_gain=2.0, training_gains=(2.0, 2.0))
    assert positions_added_twice.judge(scale).status == "absent"


WRONG = OutputState(
    loss=9.0, rows=7, classes=5, median_p=0.0, accuracy=0.1, one_hot_rows=1.0, logit_std=99.0, distinct_argmax=1,
    constant_rows=True, matrices=11, zero_gradients=1.0,
)  # fmt: skip


@pytest.mark.parametrize(("accuracy", "status"), [(0.1, "present"), (0.7, "unclear"), (1.0, "absent")])
def test_certainty_is_a_fault_only_where_it_is_wrong(accuracy: float, status: str) -> None:
    standing = replace(WRONG, accuracy=accuracy)
    assert saturated_output.judge(OutputSaturation(standing=standing, fresh=None)).status == status


def test_a_memorised_batch_is_not_saturated(verdict_of: Judge) -> None:
    subject = subjects.mlp()
    with open_bench(subject, 0) as bench:
        losses = bench.train(bench.one_batch(), 300)
        learned = replace(subject, model=bench.model)
    assert losses[-1] < 0.05
    assert verdict_of(saturated_output.FAULT, learned).status == "absent"


def test_the_verdict_on_constants_says_that_the_loss_is_safe(verdict_of: Judge) -> None:
    verdict = verdict_of(parameters_not_registered.FAULT, subjects.encoder_decoder(parameters_not_registered=True))
    assert "embedding.positions; constant, so harmless for the loss" in verdict.because


def test_the_verdict_on_lost_parameters_names_the_first_and_counts_the_rest() -> None:
    found = Parameters(
        registered=2, lost=("a", "b", "c", "d", "e"), lost_elements=1234, not_in_optimizer=(),
        not_in_optimizer_elements=0, trainable_elements=5, foreign=0, without_gradient=(), frozen=(), plain=(),
    )  # fmt: skip
    verdict = parameters_not_registered.judge(found)
    assert "5 trainable tensors (1,234 numbers)" in verdict.because
    assert "a, b, c and 2 more" in verdict.because


def test_an_old_models_parameters_in_the_optimizer_are_counted(verdict_of: Judge) -> None:
    old = subjects.mlp()
    subject = replace(old, optimizer=lambda model: torch.optim.SGD(old.model.parameters(), lr=0.1))
    verdict = verdict_of(parameters_not_in_the_optimizer.FAULT, subject)
    assert verdict.status == "present"
    assert "100.0% of their numbers" in verdict.because
    assert "6 tensors that are not the model's" in verdict.because


def test_a_deviation_says_that_it_is_harmless_by_itself(verdict_of: Judge) -> None:
    verdict = verdict_of(untied_head.FAULT, subjects.torch_encoder())
    assert "harmless unless a trial says otherwise" in verdict.because


@pytest.mark.parametrize(
    ("change", "subject", "message"),
    [
        (embedding_scale.plant, subjects.mlp, "mlp embeds no tokens"),
        (positions_added_twice.FAULT.plant, subjects.gru, "gru adds nothing to its token vectors"),
        (norm_before_head, subjects.gru, "gru has no module of its own in front of its head"),
        (tie_weights, subjects.gru, r"embedding \(\(23, 19\)\) and head \(\(23, 31\)\) must have the same shape"),
        (tie_weights, subjects.gpt2, "the head of gpt2 is tied already"),
        (untie_weights, subjects.gru, "the head of gru is not tied"),
        (per_position_affine.plant, subjects.torch_encoder, "torch-encoder has torch's own layers"),
        (per_position_affine.plant, subjects.gru, "gru has no layer norm"),
        (parameters_not_registered.plant, subjects.mlp, "no attribute with parameters of its own"),
    ],
)
def test_a_change_that_cannot_be_made_says_why(
    change: Callable[[Subject], object], subject: Callable[[], Subject], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        change(subject())


def test_a_head_that_is_no_matrix_is_refused() -> None:
    subject = replace(subjects.mlp(), loss=lambda model, batch: model(batch[0]).square().mean())
    with pytest.raises(ValueError, match="mlp has no matrix that gives the scores of a cross-entropy"):
        without_final_norm(subject)
    with pytest.raises(ValueError, match="mlp gives no logits that differ"):
        saturated_output.FAULT.remedies[0].apply(subject)


def test_the_head_is_named_also_where_it_is_tied() -> None:
    assert head_weight(subjects.gru()) == "head.weight"
    assert head_weight(subjects.encoder_decoder()) == "embedding.tokens.weight"


def test_tying_makes_one_parameter_of_two() -> None:
    tied = tie_weights(subjects.torch_encoder()).model
    assert isinstance(tied, nn.Module)
    assert tied.get_parameter("head.weight") is tied.get_parameter("embedding.weight")
