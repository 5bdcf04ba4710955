"""Minimise the cross-entropy of the scores alone, computed again from what the loss was given."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.probes.loss_account import given_rows, wanted_rows
from diagnostics.subject import Batch, Subject
from diagnostics.watch import watched_loss


def only_cross_entropy(subject: Subject) -> Subject:
    """The subject whose loss is the mean cross-entropy of what its loss calls are given, and nothing else.

    Raises:
        ValueError: the subject has a step of its own, which computes its loss where nothing can be put in its place, or
            no cross-entropy in its loss.
    """
    if subject.step is not None:
        raise ValueError(f"{subject.name} has a step of its own; its loss cannot be computed again from outside")
    with open_bench(subject, 0) as bench, torch.no_grad():
        if not watched_loss(subject, bench.model.eval(), bench.batch(0))[1].losses:
            raise ValueError(f"no cross-entropy was seen in the loss of {subject.name}")

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        value, watch = watched_loss(subject, model, batch)
        parts = []
        for call in watch.losses:
            rows, wanted = given_rows(call), wanted_rows(call)
            kept = (wanted >= 0) & (wanted < rows.shape[1])
            chosen = rows[kept].gather(1, wanted[kept, None].long())[:, 0]
            # written out, so that whoever watches sees the subject's own calls and no more
            parts.append((-chosen if call.function == "nll_loss" else rows[kept].logsumexp(-1) - chosen).mean())
        return sum(parts[1:], parts[0]) if parts else value

    return replace(subject, loss=loss)


ONLY_CROSS_ENTROPY = Intervention(
    name="only-cross-entropy",
    does="minimise the mean cross-entropy of the scores and nothing else",
    apply=only_cross_entropy,
)
