"""Ask for the next token the way the model is trained: the last position's logits, in evaluation mode."""

from dataclasses import replace
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.subject import Subject


def generate_as_trained(subject: Subject) -> Subject:
    """The subject whose next token comes from the forward pass of its training.

    Raises:
        ValueError: its token view cannot make a batch from a context alone.
    """
    view = subject.token_view
    assert view is not None
    template = next(islice(subject.batches(0), 1))

    @torch.no_grad()
    def next_logits(model: nn.Module, context: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        was_training = model.training
        batch = view.with_tokens(template, torch.cat((context, context[:, -1:]), dim=1))
        scores = view.logits(model.eval(), batch)[:, -1]
        model.train(was_training)
        return scores

    context = view.tokens(template)[:2, :-1]
    try:
        with open_bench(subject, 0) as bench:
            fits = len(next_logits(bench.model, context)) == len(context)
    except Exception as error:  # a stranger's batch may hold more than its tokens
        raise ValueError(f"the token view of {subject.name} makes no batch from two rows of tokens alone") from error
    if not fits:
        raise ValueError(f"the token view of {subject.name} gives logits for other rows than it is asked for")
    return replace(subject, token_view=replace(view, next_logits=next_logits))


GENERATE_AS_TRAINED = Intervention(
    name="generate-as-trained",
    does="take the next token from the last position of the trained forward pass, in evaluation mode",
    apply=generate_as_trained,
    needs=("token_view.next_logits",),
)
