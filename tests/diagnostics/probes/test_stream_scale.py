"""stream-scale against models whose sizes can be worked out."""

import math
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.interventions.add_positions_once import add_positions_twice
from diagnostics.interventions.scale_embedding import scale_embedding
from diagnostics.probe import read
from diagnostics.probes.stream_scale import STREAM_SCALE, StreamScale, counts_positions, raw_scores, rms, stream_scale
from diagnostics.subject import Subject
from diagnostics.watch import watched_loss
from tests import subjects


class Plain(nn.Module):
    """Signs times three, positions of size two, a head: every size is known."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(subjects.VOCAB, 5)
        nn.init.ones_(self.embedding.weight)
        with torch.no_grad():
            self.embedding.weight[:, ::2] = -1
        self.norm = nn.LayerNorm(5) if norm else nn.Identity()
        self.head = nn.Linear(5, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        return self.head(self.norm(3 * self.embedding(tokens) + 2))


def plain(norm: bool) -> Subject:
    return subjects.language_model("plain", lambda: Plain(norm), lr=1e-3)


def measured(subject: Subject) -> StreamScale:
    with open_bench(subject, 0) as bench:
        return stream_scale(bench)


def test_sizes_of_tokens_positions_and_stream_are_told_apart() -> None:
    scale = measured(plain(norm=False))
    assert scale.vectors_rms == pytest.approx(1)
    assert scale.token_gain == pytest.approx(3)
    assert scale.token_rms == pytest.approx(3)
    assert scale.position_rms == pytest.approx(2, abs=1e-5)
    assert scale.entry_rms == pytest.approx(math.sqrt((2 * 25 + 3 * 1) / 5))  # two entries of 3 + 2, three of -3 + 2
    assert scale.width == 5


def test_the_head_follows_the_embedding_only_where_nothing_normalises() -> None:
    louder = math.sqrt((2 * 14**2 + 3 * 10**2) / 5) / math.sqrt((2 * 25 + 3) / 5)
    assert measured(plain(norm=False)).head_gain == pytest.approx(louder)
    assert measured(plain(norm=True)).head_gain == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("ids", "positions"),
    [
        ([0, 1, 2, 3], True),
        ([[0, 1, 2], [0, 1, 2]], True),
        ([[7, 7, 7], [7, 7, 7]], True),
        ([[0, 1, 2], [1, 2, 3]], False),
        ([[4, 4], [5, 5]], False),
        ([3, 1, 2], False),
        ([[5]], False),
    ],
)
def test_positions_are_told_from_tokens_by_their_ids(ids: list[int], positions: bool) -> None:
    assert counts_positions(torch.tensor(ids)) is positions


def test_a_planted_factor_is_found_again() -> None:
    scale = measured(scale_embedding(7.0).apply(subjects.torch_encoder()))
    assert scale.token_gain == pytest.approx(7, rel=1e-4)


def test_dropout_takes_whole_entries_or_half_of_them() -> None:
    assert measured(subjects.gpt2()).training_gains == pytest.approx((0, 1 / 0.9), abs=1e-3)
    twice = measured(add_positions_twice(subjects.torch_encoder())).training_gains
    assert twice == pytest.approx((1, 1 + 1 / 0.9), rel=1e-3)


def test_logits_are_those_before_the_softmax() -> None:
    healthy, defective = subjects.encoder_decoder(), subjects.encoder_decoder(softmax_before_cross_entropy=True)
    assert measured(defective).raw_loss == pytest.approx(measured(healthy).raw_loss)
    assert measured(defective).logit_std == pytest.approx(measured(healthy).logit_std)


def test_probabilities_of_unknown_origin_are_turned_into_logarithms() -> None:
    subject = subjects.encoder_decoder(softmax_before_cross_entropy=True)
    _, watch = watched_loss(subject, subject.model.eval(), next(subject.batches(0)))
    direct = raw_scores(watch, watch.losses[-1])
    watch.softmaxes.clear()
    spread = raw_scores(watch, watch.losses[-1]) - direct
    assert torch.allclose(spread, spread[:, :1].expand_as(spread), atol=1e-4)


def test_a_model_without_an_embedding_has_only_the_sizes_that_exist() -> None:
    scale = measured(subjects.mlp())
    assert scale.token_rms is None
    assert scale.head_gain is None
    assert scale.classes == 3


def test_depth_lists_the_layers_in_order() -> None:
    assert [name for name, _ in measured(subjects.torch_encoder()).depth] == ["encoder.layers.0", "encoder.layers.1"]


def test_root_mean_square_by_hand() -> None:
    assert rms(torch.tensor([3.0, 4.0])) == pytest.approx(math.sqrt(12.5))


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_the_same_seed_gives_the_same_measurement(name: str) -> None:
    readings = [read(STREAM_SCALE, subjects.HEALTHY[name](), 2).measurement for _ in range(2)]
    assert readings[0] == readings[1]


def test_the_model_has_no_hooks_left() -> None:
    subject = replace(subjects.torch_encoder(), build=None)
    with open_bench(subject, 0) as bench:
        stream_scale(bench)
        assert all(not module._forward_pre_hooks for module in bench.model.modules())
