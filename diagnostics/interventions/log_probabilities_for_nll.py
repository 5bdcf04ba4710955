"""Give nll_loss log-probabilities, whatever it was given."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diagnostics.intervention import Intervention
from diagnostics.interventions.edit_loss import with_edited_loss


def log_probabilities(given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The logarithm of probabilities; the log-softmax of anything else (of log-probabilities: themselves)."""
    axis, scores = min(1, given.dim() - 1), given.detach()
    distribution = bool((scores >= 0).all()) and bool(((scores.sum(axis) - 1).abs() < 1e-3).all())
    tiny = torch.finfo(given.dtype).tiny
    return given.clamp_min(tiny).log() if distribution else given.log_softmax(axis)


def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Put the logarithm in front of nll_loss."""
    return func(**given | {"input": log_probabilities(given["input"])}) if func is F.nll_loss else func(**given)


LOG_PROBABILITIES_FOR_NLL = Intervention(
    name="log-probabilities-for-nll",
    does="give nll_loss log-probabilities",
    apply=lambda subject: with_edited_loss(subject, change),
)
