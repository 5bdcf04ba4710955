"""Whether matrices that start with all rows alike ever become different."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import in_double
from diagnostics.probe import Probe

STEPS = 4  # gates, branches and a head that all start at zero wake one after the other
RATE = 0.01  # RMS of each step in every parameter
SAME = 1e-9  # of a matrix's largest entry: double precision with six digits to spare
SAME_IN_SINGLE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """Matrices of a fresh model whose entries are all the same number, before and after STEPS small steps.

    Args:
        matrices: trainable parameters of two axes that are longer than one.
        frozen: such parameters that are not trainable.
        constant: (name, value) of those that start as one number throughout.
        still_alike: names of those of ``constant`` in which all rows, or all columns, are still the same afterwards.
        without_gradient: names of those of ``still_alike`` whose gradient was exactly zero at every step.
    """

    matrices: int
    frozen: int
    constant: tuple[tuple[str, float], ...]
    still_alike: tuple[str, ...]
    without_gradient: tuple[str, ...]


def matrices_of(model: nn.Module, *, trainable: bool = True) -> dict[str, nn.Parameter]:
    """Parameters that multiply: two axes longer than one; a convolution's kernel counts as one axis."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad == trainable
        and parameter.dim() in (2, 4)
        and parameter.shape[0] > 1
        and parameter[0].numel() > 1
    }


def alike(parameter: Float[Tensor, "..."]) -> bool:
    """Whether all rows, or all columns, are the same up to rounding."""
    matrix = parameter.detach().flatten(1)
    slack = (SAME if matrix.dtype == torch.float64 else SAME_IN_SINGLE) * float(matrix.abs().max())
    rows = float((matrix - matrix[:1]).abs().max())
    columns = float((matrix - matrix[:, :1]).abs().max())
    return min(rows, columns) <= slack


def has_gradient(parameter: nn.Parameter) -> bool:
    """Whether it has a gradient that is not exactly zero."""
    return parameter.grad is not None and bool(parameter.grad.any())


def small_step(model: nn.Module) -> None:
    """Move every parameter against its gradient by RATE in the root mean square; a gradient of zero moves nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None and (size := float(parameter.grad.norm())) > 0:
                parameter.sub_(parameter.grad, alpha=RATE * parameter.numel() ** 0.5 / size)


def symmetry(bench: Bench) -> Symmetry:
    """Start values and a few small steps of the freshly built model on one batch, dropout off."""
    model = bench.model.eval()
    found, frozen = matrices_of(model), len(matrices_of(model, trainable=False))
    first = {name: p.detach().flatten()[0] for name, p in found.items()}
    start = {name: float(value) for name, value in first.items() if bool((found[name] == value).all())}
    if not start:
        return Symmetry(matrices=len(found), frozen=frozen, constant=(), still_alike=(), without_gradient=())
    model = in_double(model, lambda model: bench.loss(model))
    moved: set[str] = set()
    for _ in range(STEPS):
        model.zero_grad(set_to_none=True)
        bench.loss(model).backward()
        moved |= {name for name in start if has_gradient(found[name])}
        small_step(model)
    used = {name for name, parameter in found.items() if parameter.grad is not None}
    still = tuple(name for name in start if name in used and alike(found[name]))
    return Symmetry(
        matrices=len(found),
        frozen=frozen,
        constant=tuple(start.items()),
        still_alike=still,
        without_gradient=tuple(name for name in still if name not in moved),
    )


SYMMETRY = Probe(
    name="symmetry",
    question="Do matrices that start as one number throughout ever become different?",
    measure=symmetry,
)
