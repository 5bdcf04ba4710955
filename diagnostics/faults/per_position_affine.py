"""A norm has one scale and shift for every position instead of one for all.

Shows as:      nothing in the training loss; a model that cannot read beyond the trained length.
Why it hurts:  what is learned at one position is not known at another, and the last position has no weights beyond it.
Measured by:   structure: modules that own a table of ones and a table of zeros of the same two-axis shape.
Judged by:     any such pair. Grade: deviation: it departs from the 2017 recipe and is harmless unless a trial says
               otherwise.
Looks like:    norm-over-the-wrong-axis.
Remedy:        nn.LayerNorm(d_model), not nn.LayerNorm((time, d_model)).
Blind spots:   trained models that cannot be built afresh: their scales are no longer ones. Norms over images own such
               pairs rightly.
Source:        Ba et al. 2016, "Layer Normalization", section 3: gain and bias have the size of the hidden state.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.interventions.scale_embedding import scale_at_entry
from diagnostics.probes.stream_scale import EntryWatch, watched_entry
from diagnostics.probes.structure import STRUCTURE, Structure, grid_affine
from diagnostics.subject import Subject


def judge(facts: Structure) -> Verdict:
    """Present where a scale and a shift have two axes."""
    if not facts.grid_affine:
        return absent("every scale and shift has one axis")
    name, rows, features = facts.grid_affine[0]
    return present(
        f"{len(facts.grid_affine)} norms have a scale and shift of {rows} x {features}, one per position (the first: "
        f"{name}); this departs from the 2017 recipe, harmless unless a trial says otherwise",
        norms=float(len(facts.grid_affine)),
        rows=float(rows),
    )


class PerPositionNorm(nn.Module):
    """Layer normalisation over the features with a scale and a shift for each position."""

    def __init__(self, time: int, d_model: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(time, d_model))
        self.bias = nn.Parameter(torch.zeros(time, d_model))
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch time d_model"]) -> Float[Tensor, "batch time d_model"]:
        """Normalised features, scaled and shifted by position."""
        normal = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return normal * self.weight[: x.shape[1]] + self.bias[: x.shape[1]]


def plant(subject: Subject) -> Subject:
    """The subject with every layer norm of one axis turned into one with a scale and shift per position.

    Raises:
        ValueError: the model holds torch's own encoder layers, which read the weights of their norms themselves, or
            has no layer norms.
    """
    fused = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    if any(isinstance(module, fused) for module in subject.model.modules()):
        raise ValueError(f"{subject.name} has torch's own layers, which read their norms' weights themselves")
    if not any(isinstance(module, nn.LayerNorm) for module in subject.model.modules()):
        raise ValueError(f"{subject.name} has no layer norm to give a scale per position")
    time = length(subject)

    def widen(model: nn.Module) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
                model.set_submodule(name, PerPositionNorm(time, module.normalized_shape[0], module.eps))

    return rebuilt(subject, widen)


def length(subject: Subject) -> int:
    """Positions of the stream of the subject's first batch."""
    scale_at_entry(subject)
    with open_bench(subject, 0) as bench, torch.no_grad(), watched_entry(bench.model, EntryWatch()) as entry:
        bench.loss()
    assert entry.stream is not None
    return int(entry.stream.shape[1])


def share_affine(subject: Subject) -> Subject:
    """The subject whose scales and shifts are the same at every position (and stay so in training)."""

    def narrow(model: nn.Module) -> None:
        for name, _, _ in grid_affine(model):
            module = model.get_submodule(name)
            for key, parameter in list(module.named_parameters(recurse=False)):
                if parameter.dim() == 2:
                    parametrize.register_parametrization(module, key, SameRows(parameter), unsafe=True)

    return rebuilt(subject, narrow)


class SameRows(nn.Module):
    """One row, repeated for every position."""

    def __init__(self, table: Float[Tensor, "rows features"]) -> None:
        super().__init__()
        self.rows = table.shape[0]

    def forward(self, row: Float[Tensor, "..."]) -> Float[Tensor, "rows features"]:
        """The row as a table."""
        return row[:1].expand(self.rows, -1)

    def right_inverse(self, table: Float[Tensor, "rows features"]) -> Float[Tensor, "1 features"]:
        """The row that the table's rows become."""
        return table[:1].clone()


SHARE_AFFINE = Intervention(
    name="share-affine", does="give every position the same scale and shift", apply=share_affine
)

FAULT = Fault(
    id="per-position-affine",
    family="model",
    grade="deviation",
    concerns="fit",
    repair_rank=51,
    measured_by=(STRUCTURE,),
    judge=judge,
    plant=plant,
    remedies=(SHARE_AFFINE,),
    looks_like=("norm-over-the-wrong-axis",),
    wrong="self.weight = nn.Parameter(torch.ones(context, d_model))",
    right="self.weight = nn.Parameter(torch.ones(d_model))",
)
