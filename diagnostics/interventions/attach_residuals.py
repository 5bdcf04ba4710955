"""Let the gradient through where a tensor is detached."""

from diagnostics.intervention import Intervention, surrounded
from diagnostics.interventions.change_residuals import Attached

ATTACH_RESIDUALS = Intervention(
    name="attach-residuals",
    does="leave out every detach in the forward pass",
    apply=lambda subject: surrounded(subject, lambda model, batch: Attached()),
)
