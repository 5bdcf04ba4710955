"""The two-line form: import, and ask what is wrong."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from diagnostics.adapt import check_scope, subject_from
from diagnostics.causes import Budget
from diagnostics.diagnosis import Diagnosis
from diagnostics.examination import DEFAULT_BUDGET, examine
from diagnostics.fault import Fault
from diagnostics.faults import CATALOGUE
from diagnostics.probe import Progress
from diagnostics.subject import Subject

_NOTHING = object()


def diagnose(
    model: nn.Module | Subject,
    batch: Any = _NOTHING,
    loss_fn: Callable[..., Any] | None = None,
    *,
    faults: Sequence[Fault] = CATALOGUE,
    budget: Budget = DEFAULT_BUDGET,
    progress: Progress = lambda stage, done, of: None,
    **settings: Any,
) -> Diagnosis:
    """What holds this training's loss up, every cause confirmed by removing it where that is possible.

    Args:
        model: a model in the state in which its loss stands, or a whole subject. Left as it was, by value.
        batch: one batch, a list of batches or a DataLoader; see `diagnostics.adapt` for what is understood.
        loss_fn: None where the model computes its own loss; see `diagnostics.adapt`.
        faults: the catalogue entries to judge.
        budget: how much work the trials may be.
        progress: called with (what is going on, done, of how many).
        settings: whatever else `subject_from` takes: optimizer, scheduler, batch_axis, build, heldout, clip_norm, name.

    Raises:
        TypeError, ValueError: these do not go together, or are out of scope; in one line, with the way out.

    >>> diagnosis = diagnose(model, (inputs, targets), nn.CrossEntropyLoss(), optimizer=optimizer)  # doctest: +SKIP
    """
    if isinstance(model, Subject):
        if batch is not _NOTHING or loss_fn is not None or settings:
            raise TypeError("a Subject brings its own batches, loss and settings; call diagnose(subject)")
        check_scope(model.model)
        subject = model
    elif batch is _NOTHING:
        raise TypeError("diagnose needs a batch: diagnose(model, batch, loss_fn), or diagnose(Subject(...))")
    else:
        subject = subject_from(model, batch, loss_fn, **settings)
    return examine(subject, faults=faults, budget=budget, progress=progress)
