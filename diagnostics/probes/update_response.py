"""How the optimizer's first step answers to the size of the gradient."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe

LOUDER = 10.0


@dataclass(frozen=True, kw_only=True)
class UpdateResponse:
    """The first update of the subject's optimizer on made-up gradients.

    Args:
        exponent: by how many powers of ten it grows where gradients grow tenfold: 1 for plain gradient descent, 0 for
            Adam. None: nothing was updated.
        rate: the largest learning rate of the optimizer's groups.
        clip_norm: of the subject; None: no clipping.
    """

    exponent: float | None
    rate: float
    clip_norm: float | None


def update_response(bench: Bench) -> UpdateResponse:
    """Compare the first updates for gradients of two sizes, weight decay left aside."""
    sizes = [update_size(bench, copy.deepcopy(bench.model), size) for size in (1.0, LOUDER)]
    groups = bench.subject.optimizer(bench.model).param_groups
    moves = min(sizes) > 0
    return UpdateResponse(
        exponent=float(torch.log10(torch.tensor(sizes[1] / sizes[0], dtype=torch.float64))) if moves else None,
        rate=max((float(group["lr"]) for group in groups), default=0.0),
        clip_norm=None if bench.subject.clip_norm is None else float(bench.subject.clip_norm),
    )


def update_size(bench: Bench, model: nn.Module, size: float) -> float:
    """Norm of the first update where every entry of the gradient is ``size`` or its negative."""
    optimizer = bench.subject.optimizer(model)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, size)
    optimizer.step()
    moved = [(p.detach() - b).norm() for p, b in zip(parameters, before, strict=True)]
    return float(torch.stack(moved).norm()) if moved else 0.0


UPDATE_RESPONSE = Probe(
    name="update-response",
    question="How does the optimizer's first step answer to the size of the gradient?",
    measure=update_response,
)
