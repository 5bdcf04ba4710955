"""ModelConfig: defaults of the paper, and messages for what cannot be built."""

from dataclasses import FrozenInstanceError

import pytest

from transformer import ModelConfig


def test_the_defaults_are_the_papers_base_model() -> None:
    config = ModelConfig(vocab_size=37_000)
    assert (config.d_model, config.num_heads, config.num_layers) == (512, 8, 6)
    assert (config.d_k, config.feedforward_width, config.dropout) == (64, 2048, 0.1)
    assert (config.norm, config.positions, config.activation) == ("after", "sinusoidal", "relu")


def test_the_feedforward_width_is_four_times_d_model_unless_given() -> None:
    assert ModelConfig(vocab_size=2, d_model=6, num_heads=3).feedforward_width == 24
    assert ModelConfig(vocab_size=2, d_model=6, num_heads=3, d_ff=7).feedforward_width == 7


def test_a_config_does_not_change() -> None:
    config = ModelConfig(vocab_size=2)
    with pytest.raises(FrozenInstanceError):
        config.d_model = 3  # type: ignore[misc]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 7}, r"d_model \(512\) must be a multiple of num_heads \(7\)"),
        ({"vocab_size": 0}, r"vocab_size \(0\) must be at least 1"),
        ({"d_model": -3}, r"d_model \(-3\) must be at least 1"),
        ({"num_heads": 0}, r"num_heads \(0\) must be at least 1"),
        ({"num_layers": 0}, r"num_layers \(0\) must be at least 1"),
        ({"d_ff": 0}, r"d_ff \(0\) must be at least 1"),
        ({"max_len": 0}, r"max_len \(0\) must be at least 1"),
        ({"dropout": 1.0}, r"dropout \(1.0\) must be at least 0 and below 1; 0 turns it off"),
        ({"dropout": float("nan")}, r"dropout \(nan\) must be at least 0 and below 1"),
        ({"attention_dropout": -0.1}, r"attention_dropout \(-0.1\) must be at least 0 and below 1"),
        ({"norm_eps": 0.0}, r"norm_eps \(0.0\) must be above 0 and finite; 1e-5 is usual"),
        ({"norm": "pre"}, r"norm \('pre'\) must be one of 'after', 'before'"),
        ({"positions": "rotary"}, r"positions \('rotary'\) must be one of 'sinusoidal', 'learned'"),
        ({"activation": "silu"}, r"activation \('silu'\) must be one of 'relu', 'gelu', 'gelu-tanh'"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"vocab_size": 11, **settings})  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [512.0, True, "512"])
def test_a_count_that_is_no_whole_number_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match=rf"d_model \({value!r}\) must be a whole number"):
        ModelConfig(vocab_size=11, d_model=value)  # type: ignore[arg-type]
