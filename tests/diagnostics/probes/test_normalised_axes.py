"""Which axis a module normalises over."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.probe import read
from diagnostics.probes.normalised_axes import NORMALISED_AXES, NormalisedAxes, normalising_modules
from tests import subjects


class Normal(nn.Module):
    """(x - mean) / std over some axes, unbiased, without parameters."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Float[Tensor, "batch time features"]) -> Float[Tensor, "batch time features"]:
        return (x - x.mean(self.axes, keepdim=True)) / x.std(self.axes, keepdim=True)


class RmsNorm(nn.Module):
    """x / root mean square over features, times a trained scale."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(17) + 0.5)

    def forward(self, x: Float[Tensor, "batch time features"]) -> Float[Tensor, "batch time features"]:
        return x / x.square().mean(-1, keepdim=True).sqrt() * self.gain


class ChannelNorm(nn.Module):
    """Batch norm of features, as it is written for [batch, features, time]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(17)

    def forward(self, x: Float[Tensor, "batch time features"]) -> Float[Tensor, "batch time features"]:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def axes_of(module: nn.Module) -> NormalisedAxes:
    """What is seen of one module behind an embedding of [13, 11] tokens into 17 features."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(23, 17), nn.Dropout(0.1), module, nn.Linear(17, 17)).eval()
    tokens = torch.randint(23, (13, 11))
    return normalising_modules(model, lambda: model(tokens), batch_axis=0)


@pytest.mark.parametrize(
    ("module", "axes", "moves_positions", "moves_samples"),
    [
        (nn.LayerNorm(17), ("features",), False, False),
        (RmsNorm(), ("features",), False, False),
        (Normal(2), ("features",), False, False),
        (Normal(1), ("time",), True, False),
        (Normal(0), ("batch",), False, True),
        (Normal(1, 2), ("time", "features"), True, False),
        (Normal(0, 1), ("batch", "time"), True, True),
    ],
)
def test_each_axis_is_recognised(
    module: nn.Module, axes: tuple[str, ...], moves_positions: bool, moves_samples: bool
) -> None:
    (seen,) = axes_of(module).modules
    assert (seen.name, seen.axes, seen.axes_known) == ("2", axes, True)
    assert (seen.other_positions > 0.1, seen.other_samples > 0.1) == (moves_positions, moves_samples)


@pytest.mark.parametrize("module", [nn.Identity(), nn.Linear(17, 17), nn.ReLU(), nn.Dropout(0.5), ChannelNorm()])
def test_what_does_not_normalise_is_left_out(module: nn.Module) -> None:
    assert axes_of(module).modules == ()


def test_a_trained_scale_and_shift_are_taken_into_account() -> None:
    norm = nn.LayerNorm(17)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert axes_of(norm).modules[0].axes == ("features",)


def test_time_first_modules_have_their_axes_named_by_the_sizes_of_the_tokens() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.norm = nn.Embedding(23, 17), Normal(0)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.norm(self.embedding(tokens).transpose(0, 1))

    model, tokens = TimeFirst(), torch.randint(23, (13, 11))
    assert normalising_modules(model, lambda: model(tokens), batch_axis=0).modules[0].axes == ("time",)


def test_without_tokens_the_axes_are_a_guess() -> None:
    model, points = nn.Sequential(nn.Linear(7, 17), Normal(1)), torch.randn(13, 11, 7)
    (seen,) = normalising_modules(model, lambda: F.relu(model(points)), batch_axis=0).modules
    assert (seen.axes, seen.axes_known) == (("time",), False)


def test_the_same_seed_measures_the_same() -> None:
    first, second = (read(NORMALISED_AXES, subjects.torch_encoder(), 5).measurement for _ in range(2))
    assert first == second
    assert [module.name for module in first.over("features")][-1] == "encoder.norm"
