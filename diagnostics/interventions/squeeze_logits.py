"""Put a function between the scores and a cross-entropy; what the plants of squeezed logits share."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.subject import Subject


def squeezed(squeeze: Callable[[Tensor], Tensor]) -> Callable[[Subject], Subject]:
    """A change that sends what cross_entropy is given through a function first."""

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        return func(**given | {"input": squeeze(given["input"])} if func is F.cross_entropy else given)

    return lambda subject: with_edited_loss(subject, change)
