"""Keep the losses of the history as plain numbers."""

from dataclasses import replace

from diagnostics.intervention import Intervention
from diagnostics.subject import LossHistory, Subject


def keep_plain_losses(subject: Subject) -> Subject:
    """The subject whose loss history holds numbers instead of tensors.

    Raises:
        ValueError: the subject has no history.
    """
    if subject.history is None:
        raise ValueError(f"{subject.name} has no history; there are no losses to turn into numbers")
    return replace(subject, history=LossHistory(losses=tuple(subject.history.values())))


KEEP_PLAIN_LOSSES = Intervention(
    name="keep-plain-losses",
    does="keep each loss as a number instead of a tensor",
    apply=keep_plain_losses,
    needs=("history",),
)
