"""How new models begin: bounds of Xavier, size of embeddings, the first loss, the same seed."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer import CrossAttention, LanguageModel, ModelConfig, SelfAttention, Seq2Seq, initialize

VARIANTS = list(product([LanguageModel, Seq2Seq], ["after", "before"], ["sinusoidal", "learned"]))


def new_config(**settings: object) -> ModelConfig:
    sizes = {
        "vocab_size": 2003,
        "d_model": 66,
        "num_heads": 3,
        "num_layers": 3,
        "max_len": 31,
        "dropout": 0.0,
    }
    return ModelConfig(**{**sizes, **settings})  # type: ignore[arg-type]


def first_loss(model: nn.Module) -> float:
    tokens = torch.randint(2003, (17, 31))
    inputs = (tokens, tokens) if isinstance(model, Seq2Seq) else (tokens,)
    labels = torch.randint(2003, (17 * 31,))
    with torch.no_grad():
        return F.cross_entropy(model(*inputs).flatten(0, 1), labels).item()


@pytest.mark.parametrize(("kind", "norm", "positions"), VARIANTS)
def test_an_untied_model_starts_at_ln_v(kind: type[nn.Module], norm: str, positions: str) -> None:
    """Xavier gives the head a variance of 2 / (d + V), so logits one of 2 d / (d + V): half of it in nats."""
    model = kind(new_config(norm=norm, positions=positions, tie_weights=False))
    expected = math.log(2003) + 66 / (66 + 2003)
    assert math.isclose(expected, first_loss(model), rel_tol=0.01)
    assert math.isclose(math.log(2003), first_loss(model), rel_tol=0.02)


@pytest.mark.parametrize(("kind", "norm", "positions"), VARIANTS)
def test_a_tied_model_starts_half_a_nat_above_ln_v(kind: type[nn.Module], norm: str, positions: str) -> None:
    """Logits of variance 1: the mean of e^logit is e^(1/2). Seven per cent of ln V at this vocabulary."""
    model = kind(new_config(norm=norm, positions=positions))
    assert math.isclose(math.log(2003) + 0.5, first_loss(model), rel_tol=0.02)


def test_a_scaled_embedding_has_unit_size() -> None:
    embedding = LanguageModel(new_config()).embedding
    scaled = embedding.tokens.weight * embedding.scale
    assert math.isclose(1.0, scaled.std().item(), rel_tol=0.02)


def test_learned_positions_are_as_large_as_embeddings() -> None:
    positions = LanguageModel(new_config(positions="learned", max_len=211)).embedding.positions
    assert math.isclose(66**-0.5, positions.std().item(), rel_tol=0.05)


@pytest.mark.parametrize(
    ("attention", "name", "parts"),
    [(SelfAttention, "query_key_value", 3), (CrossAttention, "key_value", 2), (CrossAttention, "query", 1)],
)
def test_projections_side_by_side_are_drawn_one_by_one(attention: type[nn.Module], name: str, parts: int) -> None:
    module = attention(66, 3)
    initialize(module)
    bound = math.sqrt(6 / (66 + 66))
    for matrix in getattr(module, name).weight.chunk(parts):
        assert 0.98 * bound < matrix.abs().max() <= bound
    assert not getattr(module, name).bias.any()


def test_initialize_draws_every_parameter_anew() -> None:
    """Started from the same seed, a spoiled model becomes the new one, tied weights included."""
    torch.manual_seed(3)
    fresh = Seq2Seq(new_config(positions="learned"))
    spoiled = Seq2Seq(new_config(positions="learned"))
    for parameter in spoiled.parameters():
        nn.init.constant_(parameter, 7.0)
    torch.manual_seed(5)
    initialize(fresh)
    torch.manual_seed(5)
    initialize(spoiled)
    for name, parameter in spoiled.named_parameters():
        assert torch.equal(fresh.get_parameter(name), parameter)
