"""Whether the tables that tokens are looked up in learn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.stream_scale import counts_positions
from diagnostics.watch import TorchCalls

OTHER = 1  # added to the seed of another fresh model
FEW = 3  # a table of fewer rows than this (segments, flags) is no vocabulary


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """One table that tokens are looked up in.

    Args:
        name: of the parameter or buffer; "" where the model holds none such.
        rows: number of token types.
        trainable: whether it asks for a gradient.
        reached: whether the loss's gradient came back to what was looked up.
        drawn: whether another fresh model holds other numbers there; None where that was not asked or not possible.
    """

    name: str
    rows: int
    trainable: bool
    reached: bool
    drawn: bool | None


@dataclass(frozen=True, kw_only=True)
class EmbeddingGradient:
    """The tables of a fresh model, and how much of the rest is trained.

    Args:
        tables: in the order in which they are first looked up; those of positions and segments are left out.
        others: parameters of two axes or more besides.
        others_reached: how many of them got a gradient.
    """

    tables: tuple[TokenTable, ...]
    others: int
    others_reached: int


class LookupWatch(TorchCalls):
    """Remembers the tables that tokens are looked up in, and whether a gradient comes back to the vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, Tensor] = {}
        self.reached: set[int] = set()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen; hang a hook on vectors of tokens."""
        result = func(*args, **kwargs)
        if func is F.embedding:
            ids, table = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["weight"]
            if not counts_positions(ids) and len(table) >= FEW:
                self.tables.setdefault(table.data_ptr(), table)
                if result.requires_grad:
                    result.register_hook(lambda _: self.reached.add(table.data_ptr()))
        return result


def held_as(model: nn.Module, table: Tensor) -> str:
    """The name under which a model holds a tensor; "" where it does not."""
    held = [*model.named_parameters(), *model.named_buffers()]
    return next((name for name, tensor in held if tensor.data_ptr() == table.data_ptr()), "")


def is_drawn(bench: Bench, name: str, table: Tensor) -> bool | None:
    """Whether another fresh model holds other numbers under this name; None where it cannot be asked."""
    if bench.subject.build is None or not name:
        return None
    other = dict(bench.subject.build(bench.seed + OTHER).named_parameters())
    return None if name not in other else not torch.equal(other[name].detach(), table.detach())


def embedding_gradient(bench: Bench) -> EmbeddingGradient:
    """One backward pass of the freshly built model on the first batch."""
    model = bench.model.train()
    with LookupWatch() as watch:
        loss = bench.loss(model)
    if loss.requires_grad:
        loss.backward()
    others = [p for p in model.parameters() if p.dim() > 1 and p.data_ptr() not in watch.tables]
    tables = []
    for pointer, table in watch.tables.items():
        name, reached = held_as(model, table), pointer in watch.reached
        asked = not (table.requires_grad and reached)
        tables.append(
            TokenTable(
                name=name,
                rows=len(table),
                trainable=table.requires_grad,
                reached=reached,
                drawn=is_drawn(bench, name, table) if asked else None,
            )
        )
    return EmbeddingGradient(
        tables=tuple(tables), others=len(others), others_reached=sum(p.grad is not None for p in others)
    )


EMBEDDING_GRADIENT = Probe(
    name="embedding-gradient",
    question="Do the tables that tokens are looked up in get a gradient?",
    measure=embedding_gradient,
)
