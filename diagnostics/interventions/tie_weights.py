"""Share the embedding table with the last matrix."""

from torch import nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.interventions.final_norm import head_weight
from diagnostics.probes.structure import structure
from diagnostics.subject import Subject


def place(model: nn.Module, parameter: nn.Parameter, other: nn.Parameter) -> None:
    """Put another parameter wherever a module that is no embedding holds this one."""
    for module in model.modules():
        for name, held in list(module._parameters.items()):
            if held is parameter and not isinstance(module, nn.Embedding):
                setattr(module, name, other)


def tie_weights(subject: Subject) -> Subject:
    """The subject whose head multiplies with the embedding table.

    Raises:
        ValueError: it does already, or the shapes differ.
    """
    with open_bench(subject, 0) as bench:
        facts = structure(bench)
    if facts.tied:
        raise ValueError(f"the head of {subject.name} is tied already")
    if facts.head_shape is None or facts.head_shape != facts.embedding_shape:
        raise ValueError(
            f"embedding ({facts.embedding_shape}) and head ({facts.head_shape}) must have the same shape to be tied"
        )
    name = head_weight(subject)

    def tie(model: nn.Module) -> None:
        head = model.get_parameter(name)
        tables = (m.weight for m in model.modules() if isinstance(m, nn.Embedding))
        table = next(table for table in tables if table.shape == head.shape)
        assert isinstance(table, nn.Parameter)
        place(model, head, table)

    return rebuilt(subject, tie)


TIE_WEIGHTS = Intervention(name="tie-weights", does="share the embedding table with the last matrix", apply=tie_weights)
