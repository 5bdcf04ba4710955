"""Can the setup learn one batch by heart, and does the model then know it when it writes?"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.levels import entropy
from diagnostics.probe import Probe
from diagnostics.probes.untrained_loss import kept_targets

STEPS = 200
LEARNED = 0.01  # nats; nothing is gained by going on


@dataclass(frozen=True, kw_only=True)
class OneBatch:
    """A fresh model trained on its first batch again and again, with the subject's own optimizer and schedule.

    Args:
        steps: optimizer steps taken; fewer than asked where the loss got below 0.01 nats or nothing moved any more.
        first / last: training loss of the first and of the last step, nats.
        lowest: the lowest training loss on the way, nats.
        evaluated: loss on the batch after training, in eval mode, nats.
        lowest_possible: what no model can beat that sees only what stands before: equal contexts in the batch with
            different targets, nats per target. 0 without a token view.
        generating: loss of each row's last token given all before it, asked for in the way the model generates, after
            training, nats. None where the token view cannot generate.
        generating_lowest_possible: the same bound for those last tokens alone.
    """

    steps: int
    first: float
    last: float
    lowest: float
    evaluated: float
    lowest_possible: float
    generating: float | None
    generating_lowest_possible: float


def one_batch(bench: Bench) -> OneBatch:
    """The losses of up to 200 steps on the first batch, and what the trained model says about it."""
    return learn_one_batch(bench, STEPS)[1]


def learn_one_batch(bench: Bench, steps: int) -> tuple[list[float], OneBatch]:
    """The training losses of up to ``steps`` steps on the first batch, and what the trained model says about it."""
    losses = bench.train(bench.one_batch(), steps, stop_below=LEARNED)
    bench.model.eval()
    with torch.no_grad():
        evaluated, generating = float(bench.loss()), generating_loss(bench)
    return losses, OneBatch(
        steps=len(losses),
        first=losses[0],
        last=losses[-1],
        lowest=min(losses),
        evaluated=evaluated,
        lowest_possible=lowest_possible(bench),
        generating=generating,
        generating_lowest_possible=lowest_possible(bench, only_last=True),
    )


def generating_loss(bench: Bench) -> float | None:
    """Cross-entropy of the first batch's last tokens under the distribution that the subject would sample from."""
    view = bench.subject.token_view
    if view is None or view.next_logits is None:
        return None
    stream, kept = view.tokens(bench.batch(0)), kept_targets(view, bench.batch(0))[:, -1] >= 0
    if not kept.any():
        return None
    rows = stream[kept.to(stream.device)]
    return float(F.cross_entropy(view.next_logits(bench.model, rows[:, :-1]), rows[:, -1].long()))


def lowest_possible(bench: Bench, *, only_last: bool = False) -> float:
    """H(target | everything before it in its row) over the first batch; 0 without a token view."""
    view = bench.subject.token_view
    if view is None:
        return 0.0
    stream, targets = view.tokens(bench.batch(0)).cpu().long(), kept_targets(view, bench.batch(0))
    return context_entropy(stream, targets, only_last=only_last)


def context_entropy(
    stream: Int[Tensor, "batch stream"], targets: Int[Tensor, "batch time"], *, only_last: bool = False
) -> float:
    """Entropy of the targets given their exact contexts, nats per target.

    Args:
        stream: the tokens of each row; target t is predicted from all that come before it in the stream, whose last
            token is the last target.
        targets: negative where one is left out.
        only_last: count the last target of each row alone.
    """
    contexts = context_ids(stream)[:, -targets.shape[1] - 1 : -1]
    targets = targets[:, -contexts.shape[1] :]
    kept = targets >= 0
    if only_last:
        kept[:, :-1] = False
    if not kept.any():
        return 0.0
    pairs = torch.stack((contexts[kept], targets[kept]))
    both = entropy(torch.unique(pairs, dim=1, return_counts=True)[1])
    return max(0.0, both - entropy(torch.unique(pairs[0], return_counts=True)[1]))


def context_ids(stream: Int[Tensor, "batch stream"]) -> Int[Tensor, "batch stream"]:
    """A number per position that is the same exactly where the row up to and including that position is the same."""
    width = int(stream.max()) + 1
    ids = torch.zeros_like(stream)
    group = torch.zeros_like(stream[:, 0])
    for position in range(stream.shape[1]):
        group = torch.unique(group * width + stream[:, position], return_inverse=True)[1]
        ids[:, position] = group + position * len(stream)
    return ids


ONE_BATCH = Probe(
    name="one-batch",
    question="Can one batch be learned by heart, and is it known when the model generates?",
    measure=one_batch,
    cost="training",
)
