"""Take the second copy of the token vectors out of the stream, or put one in."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from diagnostics.intervention import Intervention, surrounded
from diagnostics.interventions.scale_embedding import scale_at_entry
from diagnostics.probes.stream_scale import EntryWatch, watched_entry
from diagnostics.subject import Subject

DROPOUT = 0.1  # of the planted x + dropout(x + positions), as in the paper's section 5.4
ROUNDING = 1e-5  # RMS of what is left of the stream where nothing but token vectors is in it


def at_entry(subject: Subject, change: Callable[[Tensor, Tensor, bool], Tensor]) -> Subject:
    """The subject with every stream replaced by change(stream, token vectors, training) where it enters the model."""
    return surrounded(
        subject,
        lambda model, batch: watched_entry(
            model, EntryWatch(on_entry=lambda stream, vectors: change(stream, vectors, model.training))
        ),
    )


def gain_at_entry(subject: Subject) -> float:
    """How often the token vectors are in the stream.

    Raises:
        ValueError: that is not one number, or nothing is added to the vectors.
    """
    scale = scale_at_entry(subject)
    gain = scale.token_gain
    if not scale.position_rms or scale.position_rms < ROUNDING:
        raise ValueError(f"{subject.name} adds nothing to its token vectors before the first layer: no positions there")
    if gain is None:
        raise ValueError(f"the stream of {subject.name} is no multiple of its token vectors plus something else")
    return gain


def add_positions_once(subject: Subject) -> Subject:
    """The subject with half of the token vectors taken out of its stream."""
    half = gain_at_entry(subject) / 2
    return at_entry(subject, lambda stream, vectors, training: stream - half * vectors)


def add_positions_twice(subject: Subject) -> Subject:
    """The subject with x + dropout(x + positions) in the place of x + positions."""
    gain = gain_at_entry(subject)
    return at_entry(subject, lambda stream, vectors, training: gain * vectors + F.dropout(stream, DROPOUT, training))


ADD_POSITIONS_ONCE = Intervention(
    name="add-positions-once",
    does="take the second copy of the token vectors out of the stream",
    apply=add_positions_once,
)
