"""What can be seen in a setup's structure without judging it: tying, clipping, the shapes of norms."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Facts about a freshly initialised model and its training.

    Args:
        embedding_shape: (tokens, features) of the first embedding table; None where nothing is embedded.
        head_shape: (classes, features) of the last matrix; None where there is none.
        tied: whether the head multiplies with an embedding table itself.
        attention: whether scaled dot-product attention, or a product of two batches of matrices, was called.
        clip_norm: largest gradient norm; None: no clipping.
        head_rms: root mean square of that matrix.
        grid_affine: (module, rows, features) of each scale of ones and shift of zeros with two long axes.
    """

    embedding_shape: tuple[int, int] | None
    head_shape: tuple[int, int] | None
    tied: bool
    attention: bool
    clip_norm: float | None
    grid_affine: tuple[tuple[str, int, int], ...]
    head_rms: float | None = None


class StructureWatch(TorchCalls):
    """Remembers the tables that are looked up, the matrices that are multiplied with, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Tensor] = []
        self.factors: list[Tensor] = []
        self.classes: int | None = None
        self.attention = False

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and note what matters of it."""
        if func is F.embedding:
            self.tables.append(args[1] if len(args) > 1 else kwargs["weight"])
        elif func is F.linear:
            self.factors.append(args[1] if len(args) > 1 else kwargs["weight"])
        elif func in (torch.matmul, Tensor.matmul, Tensor.__matmul__) and len(args) > 1:
            self.note_product(args[0], args[1])
        elif func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            self.attention = True
        elif func in (F.cross_entropy, F.nll_loss):
            self.classes = int((args[0] if args else kwargs["input"]).shape[1])
        return func(*args, **kwargs)

    def note_product(self, left: Tensor, right: Tensor) -> None:
        """A product with a matrix is a linear map; one of two batches of matrices is attention."""
        if right.dim() == 2:
            self.factors.append(right.t())
        elif left.dim() > 2 and right.dim() > 2:
            self.attention = True


def grid_affine(model: nn.Module) -> tuple[tuple[str, int, int], ...]:
    """Modules that own a table of ones and a table of zeros of the same shape, more than one row each."""
    found = []
    for name, module in model.named_modules():
        tables = [p for p in module.parameters(recurse=False) if p.dim() == 2 and min(p.shape) > 1]
        ones = {tuple(p.shape) for p in tables if bool((p == 1).all())}
        zeros = {tuple(p.shape) for p in tables if not bool(p.any())}
        found += [(name, rows, features) for rows, features in sorted(ones & zeros)]
    return tuple(found)


def structure(bench: Bench) -> Structure:
    """What one forward pass and the list of parameters show."""
    model = bench.model.eval()
    with torch.no_grad(), StructureWatch() as watch:
        bench.loss(model)
    heads = [factor for factor in watch.factors if factor.shape[0] == watch.classes]
    tables = {table.data_ptr() for table in watch.tables}
    return Structure(
        embedding_shape=shape_of(watch.tables[0]) if watch.tables else None,
        head_shape=shape_of(heads[-1]) if heads else None,
        tied=bool(heads) and heads[-1].data_ptr() in tables,
        attention=watch.attention,
        clip_norm=bench.subject.clip_norm,
        grid_affine=grid_affine(model),
        head_rms=float(heads[-1].detach().norm()) / heads[-1].numel() ** 0.5 if heads else None,
    )


def shape_of(matrix: Tensor) -> tuple[int, int]:
    """Rows and columns."""
    return int(matrix.shape[0]), int(matrix.shape[1])


STRUCTURE = Probe(
    name="structure",
    question="What does the setup's structure leave out of, or add to, the 2017 recipe?",
    measure=structure,
)
