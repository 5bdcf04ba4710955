"""Whether the order of the earlier tokens matters to the last prediction."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from diagnostics.bench import Bench, random_tokens
from diagnostics.model_call import in_double, random_batch, raw_logits, rounding, shift_of
from diagnostics.probe import Probe

ROWS, PERMUTATIONS = 5, 3


@dataclass(frozen=True, kw_only=True)
class ContextOrder:
    """Largest movements of the last position's logits, in standard deviations.

    Args:
        by_order: when the tokens before the last one read are permuted.
        by_content: when they are replaced by others.
        context: how many such tokens there are.
        permutations: how many orders were tried on each of a few rows.
        rounding: what rounding alone may move.
    """

    by_order: float
    by_content: float
    context: int
    permutations: int
    rounding: float


def context_order(bench: Bench) -> ContextOrder:
    """Movements of the freshly built model, or of the standing one where nothing moves that one.

    Raises:
        ValueError: the token stream is no shifted copy of the targets, or the context is too short to permute.
    """
    fresh = measured(bench, bench.model)
    return fresh if fresh.by_content > fresh.rounding else measured(bench, bench.standing_model())


def measured(bench: Bench, model: nn.Module) -> ContextOrder:
    """Movements of one model's last logits, in eval mode and double precision where it allows."""
    view = bench.tokens
    batch = random_batch(view, model, bench.batch(0), ROWS, bench.seed)
    stream, shift = view.tokens(batch), shift_of(view, batch, view.tokens(batch))
    if shift is None:
        raise ValueError("the token stream is no shifted copy of the targets, so no prediction has a known context")
    context = view.targets(batch).shape[1] - 2 + shift
    if context < 2:
        raise ValueError(f"{context} tokens stand before the last one that is read; at least 2 are needed to permute")
    model = in_double(model, lambda model: raw_logits(view, model, batch))
    plain = raw_logits(view, model, batch)

    def movement(edited: Int[Tensor, "batch stream"]) -> float:
        change = raw_logits(view, model, view.with_tokens(batch, edited))[:, -1] - plain[:, -1]
        return float(change.abs().max() / plain.std().clamp_min(torch.finfo(plain.dtype).tiny))

    orders = [permuted(stream, context, seed) for seed in range(PERMUTATIONS)]
    replaced = stream.clone()
    replaced[:, :context] = random_tokens(view, stream[:, :context], bench.seed + 1)
    return ContextOrder(
        by_order=max(movement(order) for order in orders),
        by_content=movement(replaced),
        context=context,
        permutations=PERMUTATIONS,
        rounding=rounding(plain),
    )


def permuted(stream: Int[Tensor, "batch stream"], context: int, seed: int) -> Int[Tensor, "batch stream"]:
    """The stream with its first ``context`` tokens in another order: rotated, then shuffled for seeds above 0."""
    order = torch.arange(context).roll(1)
    if seed:
        order = torch.randperm(context, generator=torch.Generator().manual_seed(seed))
    edited = stream.clone()
    edited[:, :context] = stream[:, order.to(stream.device)]
    return edited


CONTEXT_ORDER = Probe(
    name="context-order",
    question="Does the order of the earlier tokens matter to the last prediction?",
    measure=context_order,
    needs=("token_view",),
)
