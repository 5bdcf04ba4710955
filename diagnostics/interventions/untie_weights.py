"""Give a last matrix that shares the embedding table weights of its own."""

from torch import nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.interventions.final_norm import head_weight
from diagnostics.interventions.tie_weights import place
from diagnostics.probes.structure import structure
from diagnostics.subject import Subject


def untie_weights(subject: Subject) -> Subject:
    """The subject whose head has a copy of the embedding table of its own.

    Raises:
        ValueError: the head is not tied.
    """
    with open_bench(subject, 0) as bench:
        tied = structure(bench).tied
    if not tied:
        raise ValueError(f"the head of {subject.name} is not tied; there is nothing to untie")
    name = head_weight(subject)

    def copy_head(model: nn.Module) -> None:
        shared = model.get_parameter(name)
        place(model, shared, nn.Parameter(shared.detach().clone()))

    return rebuilt(subject, copy_head)


UNTIE_WEIGHTS = Intervention(name="untie-weights", does="give the last matrix weights of its own", apply=untie_weights)
