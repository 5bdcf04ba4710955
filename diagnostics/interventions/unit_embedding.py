"""Draw the embedding table so small that tokens enter the stack with an RMS of one."""

import torch
from torch import nn

from diagnostics.intervention import Intervention, rebuilt
from diagnostics.interventions.scale_embedding import scale_at_entry
from diagnostics.subject import Subject


def unit_embedding(subject: Subject) -> Subject:
    """The subject whose embedding tables are drawn so small that tokens enter the stack with an RMS of one."""
    token_rms = scale_at_entry(subject).token_rms
    assert token_rms is not None

    def shrink(model: nn.Module) -> None:
        tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
        with torch.no_grad():
            for table in tables.values():
                table.div_(token_rms)

    return rebuilt(subject, shrink)


UNIT_EMBEDDING = Intervention(
    name="unit-embedding", does="draw the embedding table so that tokens enter with an RMS of one", apply=unit_embedding
)
