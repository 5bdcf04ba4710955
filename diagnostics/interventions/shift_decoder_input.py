"""Give the model the tokens before the targets wherever it is given the targets themselves."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.model_call import edited_arguments, shift_of
from diagnostics.probes.token_influence import TOKEN_INFLUENCE, own_target_arguments
from diagnostics.subject import Batch, Subject, TokenView


def before_targets(view: TokenView, batch: Batch) -> Int[Tensor, "batch time"]:
    """For each target the token before it: from the stream, or the first target twice where the stream starts there."""
    stream, targets = view.tokens(batch), view.targets(batch)
    if stream.shape[1] > targets.shape[1] and shift_of(view, batch, stream) == 1:
        return stream[:, : targets.shape[1]]
    return torch.cat((targets[:, :1], targets[:, :-1]), dim=1)


def shift_decoder_input(subject: Subject) -> Subject:
    """The subject whose model gets the tokens before the targets in each argument that shows it its own targets.

    Raises:
        ValueError: no argument does.
    """
    view, axis = subject.token_view, subject.batch_axis
    assert view is not None
    with open_bench(subject, 0) as bench:
        names = own_target_arguments(TOKEN_INFLUENCE.measure(bench))
    if not names:
        raise ValueError("no argument of the model lets it see its own targets; there is nothing to shift")

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        if batch is None:  # generation has no targets
            return nullcontext()
        targets, before = view.targets(batch), before_targets(view, batch)

        def edit(name: str, value: Tensor) -> Tensor:
            given = value.movedim(axis, 0) if value.dim() == 2 else value
            shifts = name in names and torch.equal(given, targets)
            return before.movedim(0, axis) if shifts else value

        return edited_arguments(model, edit)

    return surrounded(subject, surroundings)


SHIFT_DECODER_INPUT = Intervention(
    name="shift-decoder-input",
    does="give the model the tokens before the targets instead of the targets",
    apply=shift_decoder_input,
    needs=("token_view",),
)
