"""Whether a model's outputs have run into the ends of the softmax, where no gradient is left."""

from dataclasses import dataclass

import torch
from torch import nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.probes.stream_scale import raw_scores
from diagnostics.watch import watched_loss

ONE_HOT = 1e-6  # a row is one-hot where its largest probability is nearer to one than this


@dataclass(frozen=True, kw_only=True)
class OutputState:
    """One model's outputs before the softmax, and its gradient, on one training batch in training mode.

    Args:
        loss: nats, as the subject computes it.
        rows: number of targets.
        classes: width of the logits.
        median_p: median probability of the right class.
        accuracy: share of rows whose largest logit is the right class.
        one_hot_rows: share of rows whose largest probability is within ONE_HOT of one.
        logit_std: standard deviation of the logits within a row, averaged over rows.
        distinct_argmax: number of different classes that some row prefers.
        constant_rows: whether every row of logits is the same.
        matrices: number of parameters with two axes or more that ask for a gradient.
        zero_gradients: share of those whose gradient is exactly zero or missing.
    """

    loss: float
    rows: int
    classes: int
    median_p: float
    accuracy: float
    one_hot_rows: float
    logit_std: float
    distinct_argmax: int
    constant_rows: bool
    matrices: int
    zero_gradients: float


@dataclass(frozen=True, kw_only=True)
class OutputSaturation:
    """The model as it stands and, where the subject can build one, a fresh one. None: no classification loss."""

    standing: OutputState | None
    fresh: OutputState | None


def output_state(bench: Bench, model: nn.Module) -> OutputState | None:
    """What a model gives for the bench's first batch; None where no classification loss was seen."""
    model.train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(bench.seed)
    loss, watch = watched_loss(bench.subject, model, bench.batch(0))
    if not watch.losses or not watch.losses[-1].targets.numel():
        return None
    loss.backward()
    call = watch.losses[-1]
    rows = raw_scores(watch, call).float()
    probabilities = rows.softmax(-1)
    largest, preferred = probabilities.max(-1)
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    zero = sum(p.grad is None or not bool(p.grad.any()) for p in matrices)
    return OutputState(
        loss=float(loss.detach()),
        rows=rows.shape[0],
        classes=rows.shape[1],
        median_p=float(probabilities.gather(1, call.targets[:, None].long()).median()),
        accuracy=float((preferred == call.targets).float().mean()),
        one_hot_rows=float((largest > 1 - ONE_HOT).float().mean()),
        logit_std=float(rows.std(-1).mean()),
        distinct_argmax=int(preferred.unique().numel()),
        constant_rows=bool((rows == rows[:1]).all()),
        matrices=len(matrices),
        zero_gradients=zero / max(len(matrices), 1),
    )


def output_saturation(bench: Bench) -> OutputSaturation:
    """How saturated the standing model is, and how saturated it began."""
    fresh = None if bench.subject.build is None else output_state(bench, bench.model)
    return OutputSaturation(standing=output_state(bench, bench.standing_model()), fresh=fresh)


OUTPUT_SATURATION = Probe(
    name="output-saturation",
    question="Do the outputs of the model as it stands still let a gradient through?",
    measure=output_saturation,
)
