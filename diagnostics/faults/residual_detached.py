"""The residual carries the numbers past a layer, but not the gradient.

Shows as:      a loss that falls more slowly the deeper the model is; early layers and embedding that hardly move.
Why it hurts:  behind x.detach() + f(x) the layers before get their gradient through every later branch only, where it
               vanishes, and the embedding learns next to nothing.
Measured by:   residual-paths: ways without a matrix back past the attention before, as the model is and with
               detach() left out.
Judged by:     at least MOST of the attentions behind another have such a way only where detach() is left out. Grade:
               proof.
Looks like:    residual-missing, frozen-embedding.
Remedy:        x = x + f(x), without detach(), data or no_grad.
Blind spots:   residuals cut off by no_grad or by a copy through numpy (they look missing); a single layer.
Source:        He et al. 2016, "Identity Mappings in Deep Residual Networks", section 2. MOST: as in residual-missing.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.faults.residual_missing import MOST
from diagnostics.interventions.attach_residuals import ATTACH_RESIDUALS
from diagnostics.interventions.change_residuals import change_residuals
from diagnostics.probes.residual_paths import RESIDUAL_PATHS, ResidualPaths
from diagnostics.subject import Subject


def judge(paths: ResidualPaths) -> Verdict:
    """Present where residuals exist, but no gradient goes through them."""
    if paths.recurrent or not paths.streams:
        return not_tested("there are no two attentions in a row without a recurrence between them")
    cut = paths.without_residual - paths.without_residual_attached
    numbers = {"streams": float(paths.streams), "cut off": float(cut), "depth": float(paths.depth)}
    if cut >= MOST * paths.streams:
        return present(
            f"{cut} of the {paths.streams} inputs of attentions behind another have a way around the layer before for "
            "their numbers, but a detach() on it lets no gradient through",
            **numbers,
        )
    return absent(f"no detach() stands on the ways around the layers ({paths.streams} looked at)", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose streams are detached before a branch is added."""
    return change_residuals(subject, lambda stream, branch: stream.detach() + branch)


FAULT = Fault(
    id="residual-detached",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=46,
    measured_by=(RESIDUAL_PATHS,),
    judge=judge,
    plant=plant,
    remedies=(ATTACH_RESIDUALS,),
    looks_like=("residual-missing",),
    follows_from=("frozen-embedding", "graph-cut"),
    wrong="x = x.detach() + self.attention(self.norm(x))",
    right="x = x + self.attention(self.norm(x))",
)
