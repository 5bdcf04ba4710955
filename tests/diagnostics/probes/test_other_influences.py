"""Samples that move each other, the order of the context, what follows an attention, and how text is generated."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.probe import Probe, read
from diagnostics.probes.attention_output import ATTENTION_OUTPUT
from diagnostics.probes.context_order import CONTEXT_ORDER
from diagnostics.probes.generation_agreement import GENERATION_AGREEMENT
from diagnostics.probes.sample_influence import SAMPLE_INFLUENCE
from diagnostics.rows import few_rows
from diagnostics.subject import Subject
from tests import subjects


@pytest.mark.parametrize("probe", [SAMPLE_INFLUENCE, CONTEXT_ORDER, ATTENTION_OUTPUT, GENERATION_AGREEMENT])
def test_the_same_seed_measures_the_same(probe: Probe) -> None:
    first, second = (read(probe, subjects.encoder_decoder(), 7) for _ in range(2))
    assert first.measurement is not None
    assert first.measurement == second.measurement


def classifier(model: nn.Module) -> Subject:
    """A classifier of 37 points by this model."""
    return replace(subjects.mlp(), model=model, build=None)


def test_a_batch_norm_couples_no_samples_once_it_is_registered() -> None:
    measured = read(SAMPLE_INFLUENCE, subjects.mlp(), 0).measurement
    assert measured.registered == ("1",)
    assert measured.own > 0.1
    assert measured.others == measured.others_in_training == 0


def test_a_mean_over_the_batch_moves_every_sample() -> None:
    class Centred(nn.Sequential):
        def forward(self, points: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
            scores = super().forward(points)
            return scores - scores.mean(0)

    measured = read(SAMPLE_INFLUENCE, classifier(Centred(nn.Linear(5, 3))), 0).measurement
    assert measured.samples == 7
    assert measured.others == pytest.approx(measured.others_in_training)
    assert measured.others > 0.01


def test_coupling_in_train_mode_alone_is_seen_there() -> None:
    class Centred(nn.Sequential):
        def forward(self, points: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
            scores = super().forward(points)
            return scores - scores.mean(0) if self.training else scores

    measured = read(SAMPLE_INFLUENCE, classifier(Centred(nn.Linear(5, 3))), 0).measurement
    assert measured.others == 0
    assert measured.others_in_training > 0.01


def test_one_sample_is_too_few_to_replace() -> None:
    subject = subjects.mlp()
    single = replace(subject, batches=lambda seed: ((x[:1], y[:1]) for x, y in subject.batches(seed)))
    reason = read(SAMPLE_INFLUENCE, single, 0).reason
    assert reason is not None
    assert "the model's arguments hold 1 samples along axis 0; at least 3 are needed" in reason


class BagOfWords(nn.Module):
    """The mean vector of all tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(subjects.VOCAB, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.vectors(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]


def test_a_bag_of_words_is_moved_by_content_and_not_by_order() -> None:
    measured = read(CONTEXT_ORDER, subjects.language_model("bag", BagOfWords, lr=1e-3), 0).measurement
    assert measured.context == subjects.CONTEXT - 1
    assert measured.by_order <= measured.rounding < 0.01 < measured.by_content


def test_a_gru_is_moved_by_order() -> None:
    measured = read(CONTEXT_ORDER, subjects.gru(), 0).measurement
    assert measured.by_order > 0.1


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (subjects.torch_encoder, (2, 2, 0)),
        (subjects.gpt2, (2, 2, 0)),
        (subjects.encoder_decoder, (6, 6, 0)),
        (lambda: subjects.encoder_decoder(no_output_projection=True), (6, 0, 6)),
        (lambda: subjects.encoder_decoder(softmax_before_cross_entropy=True), (6, 6, 0)),
        (subjects.gru, (0, 0, 0)),
        (subjects.mlp, (0, 0, 0)),
    ],
)
def test_what_follows_each_attention_is_counted(make: object, expected: tuple[int, int, int]) -> None:
    assert callable(make)
    measured = read(ATTENTION_OUTPUT, make(), 0).measurement
    assert (measured.attentions, measured.projected, measured.added) == expected


def test_a_gate_behind_an_attention_is_named() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(subjects.VOCAB, 7), nn.Linear(7, subjects.VOCAB)

        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            x = self.embedding(tokens)
            gathered = F.softmax(x @ x.transpose(1, 2), dim=-1) @ x
            return self.head(x + gathered.sigmoid())

    measured = read(ATTENTION_OUTPUT, subjects.language_model("gated", Gated, lr=1e-3), 0).measurement
    assert (measured.attentions, measured.others) == (1, ("Sigmoid",))


def test_generation_that_calls_the_same_forward_agrees() -> None:
    measured = read(GENERATION_AGREEMENT, subjects.torch_encoder(), 0).measurement
    for each in (measured.fresh, measured.standing):
        assert each.repeated == 0
        assert each.blind
        assert each.differing < each.rounding
        assert each.entropy == pytest.approx(each.raw_entropy)
        assert each.uniform == math.log(subjects.VOCAB)


def test_scores_that_were_softmaxed_are_compared_before_the_softmax() -> None:
    subject = subjects.gru()
    view = subject.token_view
    assert view is not None
    assert view.next_logits is not None
    honest = view.next_logits
    soft = replace(
        subject, token_view=replace(view, next_logits=lambda model, tokens: honest(model, tokens).softmax(-1))
    )
    measured = read(GENERATION_AGREEMENT, soft, 0).measurement.fresh
    assert measured.sum_error < 1e-6
    assert measured.smallest > 0
    assert measured.uniform - measured.entropy < 0.01
    assert measured.differing < measured.rounding


def test_a_training_path_that_sees_its_target_is_not_compared_with() -> None:
    measured = read(GENERATION_AGREEMENT, subjects.encoder_decoder(targets_not_shifted=True), 0).measurement
    assert not measured.fresh.blind
    assert measured.fresh.differing is None


@pytest.mark.parametrize("rows", range(3, 11))
def test_a_mask_over_time_is_not_taken_for_samples_whatever_their_number(rows: int) -> None:
    """Time first, with masks [time, time] and [batch, time] as arguments: 8 target and 7 source positions."""
    few = few_rows(subjects.nn_transformer(), rows)
    measured = read(SAMPLE_INFLUENCE, few, 0).measurement
    assert measured.own > 0.1
    assert measured.others <= measured.rounding
    assert measured.others_in_training <= measured.rounding


def test_samples_that_cannot_be_told_from_positions_are_left_alone() -> None:
    """The model insists on its 7 rows, and an argument is 7 by 7."""

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        if len(batch) != 7:
            raise ValueError("seven rows")
        return model(batch).square().mean()

    square = replace(
        subjects.mlp(), build=lambda seed: nn.Linear(7, 3), loss=loss, batches=lambda seed: iter([torch.randn(7, 7)])
    )
    assert "is 7 long, as there are samples, along another axis too" in str(read(SAMPLE_INFLUENCE, square, 0).reason)
