"""Attention under a mask of ours: the masks of strangers come in every number type."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.interventions.mask_attention import AttentionMask, causal

TIME, WIDTH = 37, 62  # kernels of torch read a mask of another type as garbage from some size on


def encoder() -> nn.TransformerEncoder:
    """Torch's own stack, batch first, in evaluation mode."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 11, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


def moved(stack: nn.Module, inputs: Float[Tensor, "batch time width"], mask: Float[Tensor, "time time"]) -> list[int]:
    """The times at which the output moves when the input at time 3 does."""
    edited = inputs.clone()
    edited[:, 3] = torch.randn(len(inputs), WIDTH, dtype=inputs.dtype)
    with torch.no_grad(), AttentionMask(causal) as watch:
        difference = (stack(inputs, mask=mask) - stack(edited, mask=mask)).abs().amax((0, 2))
    assert watch.calls == 4
    return (difference > 1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_in_single_precision_hides_the_future_from_a_model_in_double(dtype: torch.dtype) -> None:
    mask = nn.Transformer.generate_square_subsequent_mask(TIME)
    inputs = torch.randn(5, TIME, WIDTH, dtype=dtype)
    assert moved(encoder().to(dtype), inputs, mask) == list(range(3, TIME))
