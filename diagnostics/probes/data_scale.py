"""How large the numbers are that a model is given and asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments, call_outputs
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls

FIRST_MAPS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, F.conv1d, F.conv2d, F.conv3d, torch.addmm)
RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")
DISTANCES = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss)
DIFFERENCES = (torch.sub, Tensor.sub, Tensor.__sub__, Tensor.__rsub__)
CLASS_LOSSES = (F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)


@dataclass(frozen=True, kw_only=True)
class DataScale:
    """Sizes on the first batch, with a freshly initialised model in eval mode. None: there is no such thing.

    Args:
        input_mean: mean of the numbers that the first linear map, convolution or recurrence of the model is given,
            where they come from the batch without a normalisation or an embedding between.
        input_std: their standard deviation about that mean.
        target_mean: mean of the numbers that a regression loss compares with.
        target_std: their standard deviation.
        output_mean: mean of the model's numbers in that comparison.
        output_std: their standard deviation.
    """

    input_mean: float | None = None
    input_std: float | None = None
    target_mean: float | None = None
    target_std: float | None = None
    output_mean: float | None = None
    output_std: float | None = None


class FirstMap(TorchCalls):
    """Remembers what the first map of the model is given, unless tokens are embedded or numbers normalised before."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Tensor | None = None
        self.decided = False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the first call that decides."""
        name = getattr(func, "__name__", "")
        if not self.decided and (name.endswith("_norm") or func is F.embedding):
            self.decided = True
        elif not self.decided and (func in FIRST_MAPS or name in RECURRENT):
            self.decided = True
            self.given = args[0] if args else kwargs.get("input")
        return func(*args, **kwargs)


class Comparison(TorchCalls):
    """Remembers the last (output, target) pair of a regression loss, whether torch's own or a difference by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.pair: tuple[Tensor, Tensor] | None = None
        self.classes = False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note what is compared: of a pair, the target is the one that no gradient goes to."""
        self.classes |= func in CLASS_LOSSES
        if func in DISTANCES or func in DIFFERENCES:
            first = args[0] if args else kwargs.get("input")
            second = args[1] if len(args) > 1 else kwargs.get("target", kwargs.get("other"))
            if isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape:
                self.note(first, second)
        return func(*args, **kwargs)

    def note(self, first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]) -> None:
        """A pair of which exactly one depends on the model."""
        if first.requires_grad != second.requires_grad:
            self.pair = (first, second) if first.requires_grad else (second, first)


def spread(numbers: Float[Tensor, "..."]) -> tuple[float, float]:
    """Mean and standard deviation."""
    flat = numbers.detach().double().flatten()
    return float(flat.mean()), float(flat.std(unbiased=False))


def given_to_the_model(bench: Bench) -> dict[str, float]:
    """Mean and standard deviation of what the first map is given; nothing for models that embed or normalise first."""

    def run() -> object:
        return bench.loss()

    floats = [each for each in call_arguments(bench.model, run).values() if each.is_floating_point()]
    if not floats:
        return {}
    with torch.no_grad(), FirstMap() as first:
        call_outputs(bench.model, run)
    if first.given is None or not first.given.is_floating_point() or not first.given.numel():
        return {}
    mean, std = spread(first.given)
    return {"input_mean": mean, "input_std": std}


def compared(bench: Bench) -> dict[str, float]:
    """Mean and standard deviation of the targets and outputs of a regression."""
    with Comparison() as comparison:
        bench.loss()
    if comparison.pair is None or comparison.classes:
        return {}
    (output_mean, output_std), (target_mean, target_std) = map(spread, comparison.pair)
    return {
        "target_mean": target_mean,
        "target_std": target_std,
        "output_mean": output_mean,
        "output_std": output_std,
    }


def data_scale(bench: Bench) -> DataScale:
    """Sizes of the first batch's inputs and, in a regression, of its targets."""
    bench.model.eval()
    return DataScale(**given_to_the_model(bench), **compared(bench))


DATA_SCALE = Probe(
    name="data-scale",
    question="How large are the numbers that the model is given, and those that it is asked for?",
    measure=data_scale,
)
