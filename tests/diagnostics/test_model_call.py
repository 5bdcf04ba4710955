"""The outermost call of a stranger's model, and the same model in double precision."""

import torch
from torch import nn

from diagnostics.model_call import in_double

TIME, WIDTH = 37, 62  # kernels of torch read a mask of another type as garbage from some size on


class OwnMask(nn.Module):
    """A causal stack whose mask is made in single precision in every forward, as people do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 11, batch_first=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Through one layer under the mask."""
        length = inputs.shape[1]
        mask = torch.triu(torch.full((length, length), float("-inf")), diagonal=1)
        return self.layer(inputs.to(self.layer.linear1.weight.dtype), src_mask=mask)


def test_a_model_that_computes_something_else_in_double_stays_in_single() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, TIME, WIDTH)
    model = in_double(OwnMask(), lambda model: model(inputs))
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    edited = inputs.clone()
    edited[:, 20] = torch.randn(3, WIDTH)
    with torch.no_grad():
        moved = (model(inputs) - model(edited)).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(20, TIME))


def test_a_model_that_computes_the_same_in_double_is_double() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 5)
    model = in_double(
        nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5)), lambda model: model(inputs.to(weight_type(model)))
    )
    assert {each.dtype for each in model.parameters()} == {torch.float64}
    assert not model.training


def test_a_model_that_refuses_double_stays_in_single() -> None:
    model = in_double(nn.Linear(5, 7), lambda model: model(torch.ones(3, 5)))
    assert model.weight.dtype == torch.float32


def weight_type(model: nn.Module) -> torch.dtype:
    """The number type of a model's first parameter."""
    return next(model.parameters()).dtype
