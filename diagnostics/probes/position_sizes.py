"""How large positions are beside the token vectors that they are added to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.stream_scale import counts_positions, rms
from diagnostics.watch import TorchCalls

ADDS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_)
KEEP = (  # what is still a token vector after it
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_, Tensor.__imul__, torch.div, Tensor.div,
    Tensor.__truediv__, torch.transpose, Tensor.transpose, Tensor.permute, torch.permute, Tensor.contiguous,
    F.dropout, F.layer_norm, Tensor.view, Tensor.reshape, torch.reshape, Tensor.to, Tensor.float, Tensor.double,
)  # fmt: skip
PRODUCTS = (
    F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.addmm, F.scaled_dot_product_attention,
    F.multi_head_attention_forward,
)  # fmt: skip
AXES = 3  # batch, time, features


@dataclass(frozen=True, kw_only=True)
class PositionSizes:
    """Root mean squares of a fresh model, in eval mode, at every sum of token vectors and positions.

    Args:
        sums: (token vectors, positions) of each sum in the order of the calls. Positions are what does not depend on
            the tokens and differs from place to place.
    """

    sums: tuple[tuple[float, float], ...]


class PositionAdds(TorchCalls):
    """Watches token vectors until positions are added to them; ``positions`` may replace what is added."""

    def __init__(self, positions: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.positions = positions
        self.sums: list[tuple[float, float]] = []
        self._tokens: dict[int, Tensor] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Follow token vectors; look at, or replace, what is added to them."""
        if func in ADDS and len(args) == 2 and (pair := self.pair(*args)) is not None:
            tokens, added = pair
            if self.positions is not None:
                return torch.add(tokens, self.positions(tokens, added))
            self.sums.append((rms(tokens), rms(added.expand_as(tokens))))
        if func in PRODUCTS:
            self._tokens.clear()
        result = func(*args, **kwargs)
        if self.gives_tokens(func, args, kwargs) and isinstance(result, Tensor):
            self._tokens[id(result)] = result
        return result

    def gives_tokens(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call looks tokens up, or leaves token vectors what they are."""
        if func is F.embedding:
            return not counts_positions(args[0] if args else kwargs["input"])
        return func in KEEP and any(id(each) in self._tokens for each in args[:2])

    def pair(self, first: Any, second: Any) -> tuple[Tensor, Tensor] | None:
        """(token vectors, positions) of a sum; None where it is another sum."""
        if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
            return None
        known = [id(each) in self._tokens for each in (first, second)]
        if known[0] == known[1]:
            return None
        tokens, added = (first, second) if known[0] else (second, first)
        if tokens.dim() != AXES or added.dim() > AXES or added.shape[-1] != tokens.shape[-1]:
            return None
        return (tokens, added) if self.differs(added) else None

    def differs(self, added: Float[Tensor, "..."]) -> bool:
        """Whether there is more than one row, and not all are the same."""
        rows = added.detach().reshape(-1, added.shape[-1])
        return len(rows) > 1 and bool((rows != rows[:1]).any())


def position_sizes(bench: Bench) -> PositionSizes:
    """Sizes at the sums of token vectors and positions on the first batch."""
    with torch.no_grad(), PositionAdds() as watch:
        bench.loss(bench.model.eval())
    return PositionSizes(sums=tuple(watch.sums))


POSITION_SIZES = Probe(
    name="position-sizes",
    question="How large are positions beside the token vectors that they are added to?",
    measure=position_sizes,
)
