"""Leaks, couplings, order, projection and generation: fire where planted, are silent elsewhere, go with the remedy."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    batch_coupling,
    future_token_leak,
    generation_differs_from_training,
    no_output_projection,
    norm_over_the_wrong_axis,
    position_blind,
    targets_not_shifted,
)
from diagnostics.interventions.mask_attention import MASK_ATTENTION
from diagnostics.interventions.renormalise import RENORMALISE
from diagnostics.interventions.shift_decoder_input import SHIFT_DECODER_INPUT
from diagnostics.probes.attention_output import AttentionOutput
from diagnostics.probes.context_order import ContextOrder
from diagnostics.probes.normalised_axes import NormalisedAxes, NormalisingModule
from diagnostics.probes.sample_influence import SampleInfluence
from diagnostics.probes.token_influence import STREAM, Movement, SourceInfluence, TokenInfluence
from tests import subjects

Judge = Callable[..., Verdict]

FAULTS = [
    module.FAULT
    for module in (
        batch_coupling,
        future_token_leak,
        generation_differs_from_training,
        no_output_projection,
        norm_over_the_wrong_axis,
        position_blind,
        targets_not_shifted,
    )
]
SWITCHED = [
    future_token_leak,
    generation_differs_from_training,
    no_output_projection,
    norm_over_the_wrong_axis,
    targets_not_shifted,
]
VIEWLESS = ("mlp", "regression", "vision", "bert")
UNPLANTABLE = {
    "future-token-leak": ("applies a mask", ("gru", *VIEWLESS)),
    "norm-over-the-wrong-axis": ("nothing to turn", ("gru", "mlp", "regression")),
    "position-blind": ("no attention over a window|no token view", ("gru", *VIEWLESS)),
    "targets-not-shifted": ("no token view|none of the model's arguments", ("t5", *VIEWLESS)),
    "generation-differs-from-training": (
        "no token view|token view has no next_logits", ("seq2seq", "nn-transformer", "t5", *VIEWLESS)
    ),
}  # fmt: skip
"""Which healthy subjects cannot carry a fault, and what they say."""
UNSEEN = {
    ("norm-over-the-wrong-axis", "vision"): "unclear",
}
"""Planted where no token view or token argument tells what is what."""
INCURABLE = {
    "batch-coupling": ("none of the 0 normalising modules", ("gru", "mlp", "regression")),
    "future-token-leak": ("may be read whole", ("seq2seq", "nn-transformer", "t5")),
}
"""Coupling that is no normalisation over features that was turned; a source of its own beside the target."""


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("fault", [module.FAULT for module in SWITCHED], ids=lambda fault: fault.id)
def test_the_switch_of_the_stuck_model_fires_and_the_remedy_cures(fault: Fault, verdict_of: Judge) -> None:
    subject = subjects.encoder_decoder(**{fault.id.replace("-", "_"): True})
    assert verdict_of(fault, subject).status == "present"
    for remedy in fault.remedies:
        assert verdict_of(fault, remedy.apply(subject)).status == "absent"


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.plant], ids=lambda fault: fault.id)
def test_a_planted_fault_fires_and_the_remedy_cures(fault: Fault, name: str, verdict_of: Judge) -> None:
    healthy = subjects.HEALTHY[name]()
    assert fault.plant is not None
    message, unplantable = UNPLANTABLE.get(fault.id, ("", ()))
    if name in unplantable:
        with pytest.raises(ValueError, match=message):
            fault.plant(healthy)
        return
    planted = fault.plant(healthy)
    assert verdict_of(fault, planted).status == UNSEEN.get((fault.id, name), "present")
    assert verdict_of(fault, healthy).status in ("absent", "not tested"), "the argument is left alone"
    for remedy in fault.remedies:
        message, incurable = INCURABLE.get(fault.id, ("", ()))
        if name in incurable:
            with pytest.raises(ValueError, match=message):
                remedy.apply(planted)
        else:
            assert verdict_of(fault, remedy.apply(planted)).status == "absent"


def test_every_card_is_complete() -> None:
    assert all(fault.card.title for fault in FAULTS)


def test_redundant_leaks_are_named_both_and_cured_only_together(verdict_of: Judge) -> None:
    subject = subjects.encoder_decoder(future_token_leak=True, norm_over_the_wrong_axis=True)
    leak, norm = future_token_leak.FAULT, norm_over_the_wrong_axis.FAULT
    assert verdict_of(leak, subject).status == verdict_of(norm, subject).status == "present"
    masked = MASK_ATTENTION.apply(subject)
    assert "they carry it, not attention" in verdict_of(leak, masked).because
    both = RENORMALISE.apply(masked)
    assert verdict_of(leak, both).status == verdict_of(norm, both).status == "absent"
    assert "they carry it" not in verdict_of(leak, both).because


def test_three_leaks_behind_a_softmax_are_told_apart(verdict_of: Judge) -> None:
    subject = subjects.encoder_decoder(
        targets_not_shifted=True,
        future_token_leak=True,
        norm_over_the_wrong_axis=True,
        softmax_before_cross_entropy=True,
    )
    for module in (targets_not_shifted, future_token_leak, norm_over_the_wrong_axis):
        assert verdict_of(module.FAULT, subject).status == "present"
    assert verdict_of(targets_not_shifted.FAULT, SHIFT_DECODER_INPUT.apply(subject)).status == "absent"


def test_a_remedy_with_nothing_to_do_says_so() -> None:
    with pytest.raises(ValueError, match="none of the 5 normalising modules works over positions or samples"):
        RENORMALISE.apply(subjects.torch_encoder())
    with pytest.raises(ValueError, match="no argument of the model lets it see its own targets"):
        SHIFT_DECODER_INPUT.apply(subjects.encoder_decoder())


def test_a_source_that_may_be_read_whole_is_not_masked() -> None:
    subject = subjects.encoder_decoder()
    assert subject.token_view is not None
    flipped = replace(
        subject.token_view, logits=lambda model, tokens: model((7 * tokens[:, :-1] + 5).flip(1) % 23, tokens[:, 1:])
    )
    with pytest.raises(ValueError, match="'x' is no shifted copy of the targets; it may be read whole"):
        MASK_ATTENTION.apply(replace(subject, token_view=flipped))


def test_generation_without_next_logits_cannot_be_planted() -> None:
    subject = subjects.gru()
    assert subject.token_view is not None
    silent = replace(subject, token_view=replace(subject.token_view, next_logits=None))
    with pytest.raises(ValueError, match="has no next_logits"):
        generation_differs_from_training.plant(silent)


def test_dropout_while_generating_is_told_from_another_path(verdict_of: Judge) -> None:
    because = verdict_of(
        generation_differs_from_training.FAULT, subjects.encoder_decoder(generation_differs_from_training=True)
    ).because
    assert "two calls on one context give different scores" in because
    assert "even without dropout and before any softmax" in because


def source(
    shift: int,
    own: float = 0.0,
    later: float = 0.0,
    *,
    earlier: float = 1.0,
    masked_own: float = 0.0,
    masked_later: float = 0.0,
) -> SourceInfluence:
    """A source whose norms make no difference."""
    plain = Movement(earlier=earlier, own=own, later=later, reach=2 if later else 0)
    masked = Movement(earlier=earlier, own=masked_own, later=masked_later, reach=0)
    return SourceInfluence(
        source="y", shift=shift, plain=plain, norms_aside=plain, masked=masked, edited=(0,), sees=((True,),)
    )


@pytest.mark.parametrize(
    ("given", "shifted", "leak"),
    [
        (source(1), "absent", "absent"),
        (source(0, own=3.0, masked_own=3.0), "present", "absent"),
        (source(-1, own=3.0, masked_own=3.0), "present", "absent"),
        (source(0, own=3.0, later=2.0), "absent", "present"),
        (source(0, own=3.0, later=2.0, masked_own=3.0), "present", "present"),
        (source(0, own=3.0, later=2.0, masked_own=3.0, masked_later=2.0), "unclear", "present"),
        (source(1, own=3.0), "absent", "present"),
        (source(1, later=2.0, masked_later=2.0), "absent", "present"),
        (source(1, earlier=0.0), "unclear", "unclear"),
    ],
)
def test_own_and_later_targets_are_judged_apart(given: SourceInfluence, shifted: str, leak: str) -> None:
    measured = TokenInfluence(sources=(given,), skipped=(), norms=(), honest=(True,), rounding=1e-9)
    assert targets_not_shifted.judge(measured).status == shifted
    assert future_token_leak.judge(measured).status == leak


def test_a_stream_alone_is_judged_where_arguments_tell_nothing() -> None:
    stream = replace(source(1, own=3.0, masked_own=3.0), source=STREAM)
    measured = TokenInfluence(sources=(stream,), skipped=(), norms=(), honest=(True,), rounding=1e-9)
    assert targets_not_shifted.judge(measured).status == "present"
    assert future_token_leak.judge(measured).status == "absent"


def test_without_a_copy_of_the_targets_nothing_is_tested() -> None:
    nothing = TokenInfluence(sources=(), skipped=("src",), norms=(), honest=(True,), rounding=1e-9)
    assert targets_not_shifted.judge(nothing).status == future_token_leak.judge(nothing).status == "not tested"


def test_thin_evidence_is_unclear() -> None:
    still = SampleInfluence(samples=3, own=0.0, others=0.0, others_in_training=0.0, registered=(), rounding=1e-9)
    assert batch_coupling.judge(still).status == "unclear"
    unread = ContextOrder(by_order=0.0, by_content=0.0, context=5, permutations=3, rounding=1e-9)
    assert position_blind.judge(unread).status == "unclear"
    gated = AttentionOutput(attentions=2, projected=1, added=0, others=("Sigmoid",))
    assert no_output_projection.judge(gated).status == "unclear"
    guessed = NormalisingModule(
        name="norm", axes=("time",), axes_known=False, misfit=0.0, other_positions=1.0, other_samples=0.0
    )
    assert norm_over_the_wrong_axis.judge(NormalisedAxes(modules=(guessed,), candidates=3)).status == "unclear"
