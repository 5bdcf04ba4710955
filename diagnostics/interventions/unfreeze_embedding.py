"""Let the tables that tokens are looked up in learn."""

from torch import nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt, surrounded
from diagnostics.interventions.change_residuals import Attached
from diagnostics.probes.embedding_gradient import embedding_gradient
from diagnostics.subject import Subject


def token_tables(subject: Subject) -> tuple[str, ...]:
    """Names of the parameters that tokens are looked up in.

    Raises:
        ValueError: there is none.
    """
    with open_bench(subject, 0) as bench:
        held = {name for name, _ in bench.model.named_parameters()}
        names = tuple(table.name for table in embedding_gradient(bench).tables if table.name in held)
    if not names:
        raise ValueError(f"{subject.name} looks no tokens up in a parameter; it has no embedding to freeze or train")
    return names


def train_tables(subject: Subject, trainable: bool) -> Subject:
    """The subject whose token tables ask for a gradient, or do not."""
    names = token_tables(subject)

    def switch(model: nn.Module) -> None:
        for name in names:
            model.get_parameter(name).requires_grad_(trainable)

    return rebuilt(subject, switch)


def unfreeze_embedding(subject: Subject) -> Subject:
    """The subject whose token tables are trained, with nothing detached in its forward pass."""
    return surrounded(train_tables(subject, True), lambda model, batch: Attached())


UNFREEZE_EMBEDDING = Intervention(
    name="unfreeze-embedding", does="let the embedding table be trained", apply=unfreeze_embedding
)
