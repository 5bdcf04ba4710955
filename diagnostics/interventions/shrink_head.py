"""Divide the last matrix by the standard deviation of the logits that a fresh model gives."""

import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.interventions.final_norm import head_weight
from diagnostics.probes.output_saturation import output_state
from diagnostics.subject import Subject


def shrink_head(subject: Subject) -> Subject:
    """The subject whose last matrix (and the embedding, where it is the same) is drawn so that logits deviate by one.

    Raises:
        ValueError: the last matrix is no parameter, or its logits do not deviate.
    """
    name = head_weight(subject)
    with open_bench(subject, 0) as bench:
        state = output_state(bench, bench.model)
    if state is None or state.logit_std == 0:
        raise ValueError(f"{subject.name} gives no logits that differ; there is nothing to shrink")
    factor = 1 / state.logit_std

    def shrink(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter(name).mul_(factor)

    return rebuilt(subject, shrink)


SHRINK_HEAD = Intervention(
    name="shrink-head", does="draw the last matrix so that the first logits deviate by one", apply=shrink_head
)
