"""Positions, embedding, residual connections: formulas, scale, and where dropout acts."""

import math

import pytest
import torch
from torch import Tensor, nn

from transformer import FeedForward, InputEmbedding, ModelConfig, initialize, sinusoidal_positions
from transformer.layers import Residual

CONFIG = ModelConfig(vocab_size=11, d_model=15, num_heads=3, num_layers=2, d_ff=17, dropout=0.0, max_len=7)
TOKENS = torch.tensor([[2, 3, 5, 7, 10], [0, 1, 4, 6, 8]])


def with_settings(**settings: object) -> ModelConfig:
    return ModelConfig(**{**vars(CONFIG), **settings})  # type: ignore[arg-type]


def new_embedding(config: ModelConfig) -> InputEmbedding:
    embedding = InputEmbedding(config)
    initialize(embedding)
    return embedding


@pytest.mark.parametrize("d_model", [2, 5, 14])
def test_sinusoidal_positions_follow_the_papers_formula(d_model: int) -> None:
    table = sinusoidal_positions(13, d_model)
    for position in range(13):
        for column in range(d_model):
            angle = position / 10_000 ** (2 * (column // 2) / d_model)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert math.isclose(expected, table[position, column].item(), rel_tol=1e-13, abs_tol=1e-13)


def test_the_offset_of_a_position_is_a_rotation() -> None:
    """Section 3.5's reason for the table: PE(pos + k) is a linear function of PE(pos), the same for every pos."""
    table = sinusoidal_positions(29, 2)
    turn = torch.tensor([[math.cos(3), math.sin(3)], [-math.sin(3), math.cos(3)]])
    torch.testing.assert_close(table[3:], table[:-3] @ turn.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("scale_embedding", "scale"), [(True, math.sqrt(15)), (False, 1.0)])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_the_input_is_scaled_embedding_plus_position(positions: str, scale_embedding: bool, scale: float) -> None:
    embedding = new_embedding(with_settings(positions=positions, scale_embedding=scale_embedding))
    expected = scale * embedding.tokens.weight[TOKENS] + embedding.positions[2:7]
    torch.testing.assert_close(expected, embedding(TOKENS, start=2), rtol=0, atol=1e-14)


def test_learned_positions_are_a_parameter_and_fixed_ones_a_buffer_that_is_not_saved() -> None:
    assert isinstance(new_embedding(with_settings(positions="learned")).positions, nn.Parameter)
    fixed = new_embedding(CONFIG)
    assert [name for name, _ in fixed.named_buffers()] == ["positions"]
    assert list(fixed.state_dict()) == ["tokens.weight"]


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_sequence_longer_than_max_len_is_refused(positions: str) -> None:
    embedding = new_embedding(with_settings(positions=positions))
    assert embedding(TOKENS, start=2).shape == (2, 5, 15)
    message = r"a sequence of 8 tokens is longer than max_len \(7\); cut it, or raise max_len in ModelConfig"
    with pytest.raises(ValueError, match=message):
        embedding(TOKENS, start=3)


@pytest.mark.parametrize(("token", "shown"), [(11, r"0 \.\.\. 11"), (-1, r"-1 \.\.\. 0")])
def test_a_token_outside_the_vocabulary_is_named(token: int, shown: str) -> None:
    message = rf"tokens \({shown}\) must be at least 0 and below vocab_size \(11\)"
    with pytest.raises(ValueError, match=message):
        new_embedding(CONFIG)(torch.tensor([[0, token]]))


def test_dropout_acts_on_the_sum_of_embedding_and_position() -> None:
    """With p = 0.5 every entry is 0 or twice the sum, never the one without the other."""
    embedding = new_embedding(with_settings(dropout=0.5))
    whole, dropped = embedding.eval()(TOKENS), embedding.train()(TOKENS)
    is_zero = dropped == 0
    assert 0.3 < is_zero.double().mean() < 0.7
    torch.testing.assert_close(2 * whole[~is_zero], dropped[~is_zero], rtol=0, atol=1e-14)


@pytest.mark.parametrize("norm", ["after", "before"])
def test_dropout_acts_on_what_a_sublayer_returns_before_it_is_added(norm: str) -> None:
    """With p = 0.5 a 1 becomes 0 or 2, and x stays whole; the norm would hide it."""
    residual = Residual(with_settings(dropout=0.5, norm=norm))
    residual.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, 5, 15)
    added = residual(x, torch.ones_like) - x
    assert set(added.round(decimals=12).unique().tolist()) == {0.0, 2.0}


def test_the_norm_stands_behind_the_sum_or_before_the_sublayer() -> None:
    x = torch.randn(2, 5, 15)

    def sublayer(y: Tensor) -> Tensor:
        return y.square() + 3

    norm = nn.LayerNorm(15)
    assert torch.equal(norm(x + sublayer(x)), Residual(with_settings(norm="after"))(x, sublayer))
    assert torch.equal(x + sublayer(norm(x)), Residual(with_settings(norm="before"))(x, sublayer))


@pytest.mark.parametrize("norm", ["after", "before"])
def test_norm_eps_reaches_the_norm(norm: str) -> None:
    assert Residual(with_settings(norm=norm, norm_eps=0.7)).norm.eps == 0.7


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", lambda x: max(x, 0.0)),
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("gelu-tanh", lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ],
)
def test_the_activation_is_the_one_that_was_asked_for(activation: str, expected: object) -> None:
    module = FeedForward(with_settings(activation=activation)).activation
    for x in (-2.0, -0.3, 0.0, 0.7, 3.0):
        assert math.isclose(expected(x), module(torch.tensor(x)).item(), abs_tol=1e-14)  # type: ignore[operator]


def test_the_feedforward_drops_nothing_inside() -> None:
    """Torch's layers do; the paper's text does not."""
    feedforward, x = FeedForward(with_settings(dropout=0.5)).train(), torch.randn(2, 5, 15)
    assert torch.equal(feedforward(x), feedforward(x))
