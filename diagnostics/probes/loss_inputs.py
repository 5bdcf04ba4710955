"""What the loss is given: logits, log-probabilities or probabilities."""

from dataclasses import dataclass

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import watched_loss


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """The rows that the loss was called with.

    Args:
        function: "cross_entropy" or "nll_loss"; None where neither was called.
        rows: number of rows (targets that count).
        classes: width of a row.
        smallest: the smallest entry.
        sum_error: the largest distance of a row's sum from 1.
        first_loss: the loss itself, nats.
    """

    function: str | None
    rows: int = 0
    classes: int = 0
    smallest: float = 0.0
    sum_error: float = 0.0
    first_loss: float = 0.0


def loss_inputs(bench: Bench) -> LossInputs:
    """The rows that the freshly initialised model hands to its classification loss on the first batch."""
    loss, watch = watched_loss(bench.subject, bench.model, bench.batch(0))
    if not watch.losses:
        return LossInputs(function=None, first_loss=float(loss.detach()))
    call = watch.losses[-1]
    scores = call.scores.double()
    return LossInputs(
        function=call.function,
        rows=scores.shape[0],
        classes=scores.shape[1],
        smallest=float(scores.min()),
        sum_error=float((scores.sum(-1) - 1).abs().max()),
        first_loss=float(loss.detach()),
    )


LOSS_INPUTS = Probe(
    name="loss-inputs",
    question="Is the loss given logits, log-probabilities or probabilities?",
    measure=loss_inputs,
)
