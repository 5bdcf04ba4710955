"""Add sinusoidal positions of the same size along time, in the place of those that are added."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.position_sizes import PositionAdds, position_sizes
from diagnostics.probes.stream_scale import rms
from diagnostics.subject import Subject


def sinusoid(length: int, like: Float[Tensor, "first second width"], size: float) -> Float[Tensor, "length width"]:
    """Sines and cosines of geometric wavelengths (Vaswani et al. 2017, section 3.5), with this root mean square."""
    width = like.shape[-1]
    rates = 10_000.0 ** (-torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(length, device=like.device)[:, None] * rates
    table = torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :width]
    return (table * 2**0.5 * size).to(like.dtype)


def along(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(token vectors, positions) -> positions of the same size along this axis of the token vectors."""

    def positions(tokens: Tensor, added: Tensor) -> Tensor:
        rows = sinusoid(tokens.shape[axis], tokens, rms(added))
        return rows[:, None] if axis == 0 else rows

    return positions


def with_positions_along(subject: Subject, axis: int) -> Subject:
    """The subject whose token vectors get positions along this axis.

    Raises:
        ValueError: nothing is added to them.
    """
    with open_bench(subject, 0) as bench:
        if not position_sizes(bench).sums:
            raise ValueError(f"{subject.name} adds no positions to its token vectors; there is nothing to turn")
    return surrounded(subject, lambda model, batch: PositionAdds(along(axis)))


def turn_positions(subject: Subject) -> Subject:
    """The subject whose positions are counted along time."""
    return with_positions_along(subject, 1 - subject.batch_axis)


def turned_positions(subject: Subject) -> Subject:
    """The subject whose positions are counted along the samples."""
    return with_positions_along(subject, subject.batch_axis)


TURN_POSITIONS = Intervention(
    name="turn-positions", does="count positions along time, with sines of the same size", apply=turn_positions
)
