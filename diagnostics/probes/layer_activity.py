"""How much of a network is switched off: by dropout while it trains, by ReLUs that never fire."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls

BATCHES = 3  # on whose inputs a ReLU has the chance to fire
RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)
DROPOUTS = (F.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d)


@dataclass(frozen=True, kw_only=True)
class LayerActivity:
    """What is switched off in the freshly built model and in the model as it stands.

    Args:
        dropout: (rate, number of calls) of every dropout in training mode, the highest rate first; where attention
            drops its own weights, that counts as a call.
        attention: whether an attention (a softmax over keys before a product, or torch's own) was called.
        relus: (units, share that is zero on every input of a few batches) of each ReLU of the fresh model, in order.
        standing_relus: the same of the model as it stands.
        inputs: the fewest inputs that any of the units was tried on.
    """

    dropout: tuple[tuple[float, int], ...]
    attention: bool
    relus: tuple[tuple[int, float], ...]
    standing_relus: tuple[tuple[int, float], ...]
    inputs: int


class ReluWatch(TorchCalls):
    """Collects, for the calls of ReLU in order, the largest output of each unit and on how many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: list[Tensor] = []
        self.inputs: list[int] = []
        self.next_call = 0

    def start_pass(self) -> None:
        """The next call is the first of a forward pass."""
        self.next_call = 0

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and look at the result of a ReLU."""
        result = func(*args, **kwargs)
        if func in RELUS and result.dim() > 1:
            self.note(result.detach())
        return result

    def note(self, result: Float[Tensor, "..."]) -> None:
        """Units are channels (axis 1) of images and sequences of maps (four axes or more), else the last axis."""
        rows = result.movedim(1, -1) if result.dim() > 3 else result
        rows = rows.reshape(-1, rows.shape[-1])
        best = rows.amax(0)
        if self.next_call == len(self.largest):
            self.largest.append(best)
            self.inputs.append(len(rows))
        elif self.largest[self.next_call].shape == best.shape:
            self.largest[self.next_call] = torch.maximum(self.largest[self.next_call], best)
            self.inputs[self.next_call] += len(rows)
        self.next_call += 1

    def shares(self) -> tuple[tuple[int, float], ...]:
        """(units, share that never fired) call by call."""
        return tuple((len(best), float((best <= 0).float().mean())) for best in self.largest)


class DropoutWatch(TorchCalls):
    """Counts the dropout rates in force, and notes attention."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: dict[float, int] = {}
        self.attention = False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the rate of the call and let it happen."""
        if func in DROPOUTS:
            given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if given.get("training", True):
                self.note(given.get("p", 0.5))
        elif func is F.scaled_dot_product_attention:
            self.attention = True
            given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False)) | kwargs
            self.note(given.get("dropout_p", 0.0))
        elif func is F.multi_head_attention_forward:
            self.attention = True
            self.note(args[10] if len(args) > 10 and kwargs.get("training", True) else 0.0)
        elif func in (F.softmax, torch.softmax, Tensor.softmax) and args and args[0].dim() > 2:
            self.attention = True
        return func(*args, **kwargs)

    def note(self, rate: float) -> None:
        """One more call at this rate."""
        if rate > 0:
            self.rates[float(rate)] = self.rates.get(float(rate), 0) + 1


@torch.no_grad()
def silent_relus(bench: Bench, model: nn.Module) -> ReluWatch:
    """What the model's ReLUs give on the first batches, dropout off."""
    model.eval()
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it calls no ReLU of its own that could be seen
    try:
        with ReluWatch() as watch:
            for index in range(BATCHES):
                watch.start_pass()
                bench.loss(model, bench.batch(index))
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
    return watch


def layer_activity(bench: Bench) -> LayerActivity:
    """Dropout rates in training mode, and units behind a ReLU that never fire."""
    with torch.no_grad(), DropoutWatch() as dropout:
        bench.loss(bench.model.train())
    fresh = silent_relus(bench, bench.model)
    standing = silent_relus(bench, bench.standing_model()) if fresh.largest else fresh
    return LayerActivity(
        dropout=tuple(sorted(dropout.rates.items(), reverse=True)),
        attention=dropout.attention,
        relus=fresh.shares(),
        standing_relus=standing.shares(),
        inputs=min(fresh.inputs, default=0),
    )


LAYER_ACTIVITY = Probe(
    name="layer-activity",
    question="How much of the network is switched off, by dropout or by ReLUs that never fire?",
    measure=layer_activity,
)
