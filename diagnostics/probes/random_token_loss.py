"""What a model learns about tokens that nobody can predict."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments, random_batch, shift_of
from diagnostics.probe import Probe
from diagnostics.probes.untrained_loss import kept_targets
from diagnostics.subject import Batch, TokenView

ROWS = 8
KINDS = 5  # token types that are drawn from: few, so that their frequencies are learned at once
STEPS = 120
RATE = 3e-3
LEARNED_SHARE = 0.5  # of the bound
CHECKS = 4  # fresh batches for the final figure
FRESH = 100_003  # apart from the seeds of the training batches


@dataclass(frozen=True, kw_only=True)
class RandomTokenLoss:
    """A fresh model after some steps of Adam on ever new, uniformly random tokens of a few types.

    Args:
        kinds: token types that were drawn from.
        bound: ln of that: no model that does not see its targets gets below, on average.
        steps: of training.
        loss / error: cross-entropy on more fresh tokens, in eval mode, nats per target, and its standard error.
        targets: that the figure was taken over.
        source_follows: whether an input that is no shifted copy of the targets is made from the same tokens, so that
            it may tell them honestly.
    """

    kinds: int
    bound: float
    steps: int
    loss: float
    error: float
    targets: int
    source_follows: bool


def random_token_loss(bench: Bench) -> RandomTokenLoss:
    """What a model learns in STEPS steps about tokens that nobody can predict."""
    return learn_random_tokens(bench, STEPS)


def learn_random_tokens(bench: Bench, steps: int) -> RandomTokenLoss:
    """Train the bench's model on random tokens, and ask it for new ones.

    Ends early where it predicts them twice as well as anybody could (LEARNED_SHARE): there is nothing more to show.

    Raises:
        ValueError: the first batch has fewer than two types of targets.
    """
    view, model = bench.tokens, bench.model
    ids = kinds_of(view, bench.batch(0))
    batch = random_batch(view, model, bench.batch(0), ROWS, bench.seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model.train()
    taken = 0
    for step in range(steps):
        optimizer.zero_grad()
        losses = target_losses(view, model, redrawn(view, batch, ids, bench.seed + step), ids)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        taken += 1
        if float(losses.detach().mean()) < LEARNED_SHARE * math.log(len(ids)):
            break
    model.eval()
    with torch.no_grad():
        checks = [redrawn(view, batch, ids, bench.seed + FRESH + index) for index in range(CHECKS)]
        final = torch.cat([target_losses(view, model, each, ids) for each in checks]).double()
    return RandomTokenLoss(
        kinds=len(ids),
        bound=math.log(len(ids)),
        steps=taken,
        loss=float(final.mean()),
        error=float(final.std() / math.sqrt(len(final))),
        targets=len(final),
        source_follows=source_follows(view, model, checks[0], checks[1]),
    )


def kinds_of(view: TokenView, batch: Batch) -> Int[Tensor, " kinds"]:
    """A few token types that are targets of the batch, spread over the vocabulary; never the padding."""
    targets = kept_targets(view, batch)
    ids = targets[targets >= 0].unique()
    ids = ids[ids != view.padding_id] if view.padding_id is not None else ids
    if len(ids) < 2:
        raise ValueError(f"the first batch has {len(ids)} types of targets; two are needed to draw from")
    return ids[torch.linspace(0, len(ids) - 1, min(KINDS, len(ids))).long()]


def redrawn(view: TokenView, batch: Batch, ids: Int[Tensor, " kinds"], seed: int) -> Batch:
    """The batch made of tokens drawn from these types."""
    stream = view.tokens(batch)
    drawn = torch.randint(len(ids), tuple(stream.shape), generator=torch.Generator().manual_seed(seed))
    return view.with_tokens(batch, ids[drawn].to(stream))


def target_losses(
    view: TokenView, model: nn.Module, batch: Batch, ids: Int[Tensor, " kinds"]
) -> Float[Tensor, " targets"]:
    """Cross-entropy of each target that counts and was drawn."""
    targets, scores = kept_targets(view, batch), view.logits(model, batch)
    drawn = torch.isin(targets, ids).to(scores.device)
    return F.cross_entropy(scores[drawn].float(), targets.to(scores.device)[drawn], reduction="none")


def source_follows(view: TokenView, model: nn.Module, batch: Batch, other: Batch) -> bool:
    """Whether an argument of whole numbers that is no shift of the targets changes with the tokens."""
    first = call_arguments(model, lambda: view.logits(model, batch))
    second = call_arguments(model, lambda: view.logits(model, other))
    for name, value in first.items():
        if value.is_floating_point() or value.dim() != 2 or name not in second:
            continue
        moves = value.shape != second[name].shape or not torch.equal(value, second[name])
        if moves and all(shift_of(view, batch, each) is None for each in (value, value.t())):
            return True
    return False


RANDOM_TOKEN_LOSS = Probe(
    name="random-token-loss",
    question="Does a model learn to predict tokens that nobody can predict?",
    measure=random_token_loss,
    needs=("token_view",),
    cost="training",
)
