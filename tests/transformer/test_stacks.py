"""Layers and stacks against torch's own, weights copied: forward and gradients."""

import re
from collections.abc import Callable, Iterable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from transformer import (
    EVERYTHING,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    ModelConfig,
    Visibility,
    causal_mask,
    except_padding,
    up_to_itself,
)

D_MODEL, HEADS, D_FF, LAYERS = 15, 3, 17, 2
BATCH, SOURCE_LEN, TARGET_LEN = 2, 7, 5
CHOICES = list(product(["after", "before"], ["relu", "gelu"]))
PER_CHOICE = pytest.mark.parametrize(("norm", "activation"), CHOICES)

SOURCE_IS_PADDING = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
TARGET_IS_PADDING = torch.tensor([[False, False, True, False, True], [False] * 5])

ENCODER_NAMES = {
    "self_attn.in_proj_": "attention.query_key_value.",
    "self_attn.out_proj.": "attention.output.",
    "linear1.": "feedforward.inner.",
    "linear2.": "feedforward.outer.",
    "norm1.": "around_attention.norm.",
    "norm2.": "around_feedforward.norm.",
}
DECODER_NAMES = ENCODER_NAMES | {
    "multihead_attn.out_proj.": "cross_attention.output.",
    "norm2.": "around_cross_attention.norm.",
    "norm3.": "around_feedforward.norm.",
}


def config_for(norm: str, activation: str) -> ModelConfig:
    return ModelConfig(
        vocab_size=2,
        d_model=D_MODEL,
        num_heads=HEADS,
        num_layers=LAYERS,
        d_ff=D_FF,
        dropout=0.0,
        norm=norm,  # type: ignore[arg-type]
        activation=activation,  # type: ignore[arg-type]
    )


def torch_layer(kind: type[nn.Module], norm: str, activation: str) -> nn.Module:
    return kind(D_MODEL, HEADS, D_FF, 0.0, activation, batch_first=True, norm_first=norm == "before")


def in_our_names(theirs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Torch's parameters (or their gradients) by the name and in the shape that ours have."""
    named = dict(theirs)
    ours: dict[str, Tensor] = {}
    for name, tensor in named.items():
        layer, part = re.fullmatch(r"(.*layers\.\d+\.|)(.*)", name).groups()  # type: ignore[union-attr]
        part = part.replace("norm.", "final_norm.")
        has_memory = f"{layer}norm3.weight" in named
        for their_part, our_part in (DECODER_NAMES if has_memory else ENCODER_NAMES).items():
            part = part.replace(their_part, our_part)
        if part.startswith("multihead_attn.in_proj_"):
            query, key_value = tensor.split([D_MODEL, 2 * D_MODEL])
            ours[layer + part.replace("multihead_attn.in_proj_", "cross_attention.query.")] = query
            ours[layer + part.replace("multihead_attn.in_proj_", "cross_attention.key_value.")] = key_value
        else:
            ours[layer + part] = tensor
    return ours


def randomise(module: nn.Module) -> None:
    """Torch starts biases at 0 and norms at 1, where a mix-up would not show."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)


def assert_equal_forward_and_backward(
    theirs: nn.Module,
    ours: nn.Module,
    call_theirs: Callable[..., Tensor],
    call_ours: Callable[..., Tensor],
    *inputs: Tensor,
) -> None:
    randomise(theirs)
    ours.load_state_dict(in_our_names(theirs.named_parameters()))
    their_inputs = [x.clone().requires_grad_() for x in inputs]
    our_inputs = [x.clone().requires_grad_() for x in inputs]
    expected, actual = call_theirs(*their_inputs), call_ours(*our_inputs)
    close = {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(actual, expected, **close)
    towards = torch.randn_like(expected)
    (expected * towards).sum().backward()
    (actual * towards).sum().backward()
    for our_input, their_input in zip(our_inputs, their_inputs, strict=True):
        torch.testing.assert_close(our_input.grad, their_input.grad, **close)
    expected_gradients = in_our_names((name, p.grad) for name, p in theirs.named_parameters())
    actual_gradients = {name: p.grad for name, p in ours.named_parameters()}
    torch.testing.assert_close(actual_gradients, expected_gradients, **close)


@PER_CHOICE
@pytest.mark.parametrize("is_causal", [False, True])
def test_an_encoder_layer_equals_torchs(norm: str, activation: str, is_causal: bool) -> None:
    theirs = torch_layer(nn.TransformerEncoderLayer, norm, activation)
    ours = EncoderLayer(config_for(norm, activation))
    may_see = causal_mask(SOURCE_LEN, SOURCE_LEN)
    assert_equal_forward_and_backward(
        theirs,
        ours,
        lambda x: theirs(x, src_mask=~may_see if is_causal else None),
        lambda x: ours(x, Visibility(is_causal=is_causal)),
        torch.randn(BATCH, SOURCE_LEN, D_MODEL),
    )


@PER_CHOICE
def test_a_decoder_layer_equals_torchs(norm: str, activation: str) -> None:
    theirs = torch_layer(nn.TransformerDecoderLayer, norm, activation)
    ours = DecoderLayer(config_for(norm, activation))
    may_see = causal_mask(TARGET_LEN, TARGET_LEN)
    assert_equal_forward_and_backward(
        theirs,
        ours,
        lambda x, memory: theirs(x, memory, tgt_mask=~may_see),
        lambda x, memory: ours(x, memory, up_to_itself(TARGET_LEN, TARGET_LEN), EVERYTHING),
        torch.randn(BATCH, TARGET_LEN, D_MODEL),
        torch.randn(BATCH, SOURCE_LEN, D_MODEL),
    )


@PER_CHOICE
def test_an_encoder_with_padding_equals_torchs(norm: str, activation: str) -> None:
    layer = torch_layer(nn.TransformerEncoderLayer, norm, activation)
    theirs = nn.TransformerEncoder(layer, LAYERS, _final_norm(norm), enable_nested_tensor=False)
    ours = Encoder(config_for(norm, activation))
    assert_equal_forward_and_backward(
        theirs,
        ours,
        lambda x: theirs(x, src_key_padding_mask=SOURCE_IS_PADDING),
        lambda x: ours(x, except_padding(SOURCE_IS_PADDING)),
        torch.randn(BATCH, SOURCE_LEN, D_MODEL),
    )


class _EncoderAndDecoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory = self.encoder(source, except_padding(SOURCE_IS_PADDING))
        visible = up_to_itself(TARGET_LEN, TARGET_LEN, TARGET_IS_PADDING)
        return self.decoder(target, memory, visible, except_padding(SOURCE_IS_PADDING))


@PER_CHOICE
def test_both_stacks_with_padding_equal_nn_transformer(norm: str, activation: str) -> None:
    """Torch's default stacks end in a norm even where the norms come after, unlike the paper: built by hand."""
    encoder_layer = torch_layer(nn.TransformerEncoderLayer, norm, activation)
    decoder_layer = torch_layer(nn.TransformerDecoderLayer, norm, activation)
    theirs = nn.Transformer(
        custom_encoder=nn.TransformerEncoder(encoder_layer, LAYERS, _final_norm(norm), False),
        custom_decoder=nn.TransformerDecoder(decoder_layer, LAYERS, _final_norm(norm)),
        d_model=D_MODEL,
        nhead=HEADS,
        batch_first=True,
    )
    ours = _EncoderAndDecoder(config_for(norm, activation))
    assert_equal_forward_and_backward(
        theirs,
        ours,
        lambda source, target: theirs(
            source,
            target,
            tgt_mask=~causal_mask(TARGET_LEN, TARGET_LEN),
            src_key_padding_mask=SOURCE_IS_PADDING,
            memory_key_padding_mask=SOURCE_IS_PADDING,
            tgt_key_padding_mask=TARGET_IS_PADDING,
        ),
        ours,
        torch.randn(BATCH, SOURCE_LEN, D_MODEL),
        torch.randn(BATCH, TARGET_LEN, D_MODEL),
    )


def test_only_norms_that_come_before_need_a_final_one() -> None:
    assert isinstance(Encoder(config_for("before", "relu")).final_norm, nn.LayerNorm)
    assert isinstance(Decoder(config_for("after", "relu")).final_norm, nn.Identity)


def _final_norm(norm: str) -> nn.Module | None:
    return nn.LayerNorm(D_MODEL) if norm == "before" else None
