"""How the loss is put together: which targets count how much in it, what else is in it, and whether it can be learned
from at all.

The gradient of a cross-entropy at its scores is weight x (softmax - target), row by row, however the loss is written.
So the weights of the targets can be read off that gradient, and what the weighted cross-entropies leave over of the
loss is something else.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments
from diagnostics.probe import Probe
from diagnostics.smoothing import smoothing
from diagnostics.subject import Batch, Subject
from diagnostics.watch import ForwardWatch, LossCall, storage, watched_loss

ROWS = 64  # of scores that the weights are fitted on, evenly spaced; the other rows get the median of these
UNEXPLAINED = 0.1  # share of the gradient at the scores that weights do not explain: then this is no cross-entropy
OTHER_TERM = 0.05  # share of the loss that is no cross-entropy, from which its gradient is worth measuring


@dataclass(frozen=True, kw_only=True)
class Share:
    """What the targets of one batch count for.

    Args:
        rows: samples in the batch; 0 where they cannot be told.
        counted: targets with a gradient.
        weight: the sum of the targets' weights: 1 for a mean, ``counted`` for a sum. None: it cannot be read off.
    """

    rows: int
    counted: int
    weight: float | None


@dataclass(frozen=True, kw_only=True)
class LossAccount:
    """What is in the loss of a fresh model on the first batch, in training mode with dropout off.

    Args:
        function: "cross_entropy" or "nll_loss"; None where neither was called nor written out.
        by_hand: whether it was written out.
        calls: how many such calls there were.
        targets: targets that those calls were given, ignored ones included.
        kept: those that the calls did not leave out.
        kept_later: the same in the second batch.
        classes: width of a row.
        label_smoothing: the largest of the calls; of a loss that is written out, what it comes to.
        loss: the loss itself, nats.
        cross_entropy: weighted sum of the targets' cross-entropies; what belongs to the data.
        share: what the targets count for.
        fewer: the same with half the samples; None where the batch cannot be cut.
        other_gradient: size of the gradient of what else is in the loss, in units of that of the cross-entropy. None
            where there is nothing else.
        connected: whether the loss leads back to anything that can be learned.
        scores_connected: whether the scores that the loss is computed from do.
        trainable: whether any parameter asks for a gradient.
        blind: products with weights that ask for a gradient, made while gradients were switched off.
        normaliser: of nll_loss, median of |ln sum exp| of a row; 0 for log-probabilities. None for other functions.
        normalised_axis: axis of a log-softmax of the same size (from the end), where one was seen.
    """

    function: str | None
    by_hand: bool
    calls: int
    targets: int
    kept: int
    kept_later: int
    classes: int
    label_smoothing: float
    loss: float
    cross_entropy: float | None
    share: Share | None
    fewer: Share | None
    other_gradient: float | None
    connected: bool
    scores_connected: bool
    trainable: bool
    blind: int
    normaliser: float | None
    normalised_axis: int | None


def loss_account(bench: Bench) -> LossAccount:
    """The parts of the loss of the bench's model."""
    subject, model, batch = bench.subject, bench.model.eval(), bench.batch(0)
    loss, watch = watched_loss(subject, model, batch)
    calls, connected = watch.losses, loss.requires_grad and loss.grad_fn is not None
    weights = weights_of(loss, calls) if connected else None
    rows = samples(subject, model, batch)
    data = None if weights is None else weighted(calls, weights)
    first = calls[-1] if calls else None
    return LossAccount(
        function=None if first is None else first.function,
        by_hand=first is not None and first.by_hand,
        calls=len(calls),
        targets=sum(given_rows(call).shape[0] for call in calls),
        kept=sum(len(call.targets) for call in calls),
        kept_later=sum(len(call.targets) for call in second_batch(bench, model)),
        classes=0 if first is None else first.scores.shape[1],
        label_smoothing=max((smoothing(bench).amount, *(float(call.label_smoothing) for call in calls))),
        loss=float(loss.detach()),
        cross_entropy=None if data is None else float(data.detach()),
        share=None if weights is None else share_of(rows, weights),
        fewer=None if weights is None else of_fewer(subject, model, batch, rows),
        other_gradient=None if data is None else other_gradient(model, loss, data),
        connected=connected,
        scores_connected=any(call.given is not None and call.given.requires_grad for call in calls),
        trainable=any(p.requires_grad for p in model.parameters()),
        blind=watch.blind,
        normaliser=normaliser_of(first),
        normalised_axis=normalised_axis(watch, first),
    )


def second_batch(bench: Bench, model: nn.Module) -> list[LossCall]:
    """The loss calls on the second batch."""
    with torch.no_grad():
        return watched_loss(bench.subject, model, bench.batch(1))[1].losses


def given_rows(call: LossCall) -> Shaped[Tensor, "rows classes"]:
    """Every row of scores of a call as it was given, with its graph."""
    assert call.given is not None
    return class_rows(call, call.given)


def class_rows(call: LossCall, given: Shaped[Tensor, "..."]) -> Shaped[Tensor, "rows classes"]:
    """The scores of a call, or their gradient, with one row per target."""
    if call.by_hand:
        return given.reshape(-1, given.shape[-1])
    return given.movedim(1, -1).reshape(-1, given.shape[1]) if given.dim() > 1 else given[None]


def wanted_rows(call: LossCall) -> Shaped[Tensor, " rows"]:
    """The class that each row of scores is compared with; out of range where the call leaves it out."""
    assert call.wanted is not None
    wanted = call.wanted.detach()
    if wanted.is_floating_point():
        wanted = wanted.argmax(dim=1 if wanted.dim() > 1 else 0)
    flat = wanted.reshape(-1)
    return flat.masked_fill(flat == call.ignore_index, -1)


def target_rows(call: LossCall, wanted: Shaped[Tensor, " rows"], classes: int) -> Float[Tensor, "rows classes"]:
    """Target probabilities, label smoothing included; zero where a target is left out."""
    kept = (wanted >= 0) & (wanted < classes)
    hot = F.one_hot(wanted.clamp(0, classes - 1).long(), classes).double()
    return ((1 - call.label_smoothing) * hot + call.label_smoothing / classes) * kept[:, None]


def weights_of(loss: Float[Tensor, ""], calls: list[LossCall]) -> list[Float[Tensor, " rows"]] | None:
    """What each target counts for in the loss, call by call; None where the loss is no cross-entropy of its scores."""
    usable = [call for call in calls if call.given is not None and call.given.requires_grad]
    if not usable or len(usable) != len(calls) or not torch.isfinite(loss):
        return None
    rows = [call.given for call in usable]
    gradients = torch.autograd.grad(loss, rows, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
    found = []
    for call, gradient in zip(usable, gradients, strict=True):
        if gradient is None:
            return None  # written out from a copy of the scores, or a call that the loss does not contain
        one = row_weights(call, gradient)
        if one is None:
            return None
        found.append(one)
    return found


def row_weights(call: LossCall, gradient: Float[Tensor, "..."]) -> Float[Tensor, " rows"] | None:
    """Least squares, row by row: gradient = weight x (softmax - target) + another weight x softmax.

    The second term is what a penalty on the normaliser (z-loss) leaves there.
    """
    rows = class_rows(call, gradient)
    counted = rows.abs().amax(-1) > 0
    places = counted.nonzero()[:, 0]
    places = places[:: max(1, -(-len(places) // ROWS))]
    sample, scores = rows[places].double(), given_rows(call).detach()[places].double()
    target = target_rows(call, wanted_rows(call)[places], rows.shape[1])
    weights = fitted(sample, scores, target, logs=call.function == "nll_loss")
    if weights is None or not len(weights):
        return None
    every = counted * weights.median()
    every[places] = weights
    return every


def fitted(
    gradient: Float[Tensor, "rows classes"],
    scores: Float[Tensor, "rows classes"],
    target: Float[Tensor, "rows classes"],
    *,
    logs: bool,
) -> Float[Tensor, " rows"] | None:
    """The weights of some rows; None where they leave too much of the gradient unexplained."""
    if logs:
        return -(gradient * target).sum(-1) / (target * target).sum(-1).clamp_min(1e-30)
    softmax = scores.softmax(-1)
    away = softmax - target
    aa, ap, pp = (away * away).sum(-1), (away * softmax).sum(-1), (softmax * softmax).sum(-1)
    ga, gp = (gradient * away).sum(-1), (gradient * softmax).sum(-1)
    bottom = (aa * pp - ap * ap).clamp_min(1e-30)
    weight, other = (ga * pp - gp * ap) / bottom, (gp * aa - ga * ap) / bottom
    left = gradient - weight[:, None] * away - other[:, None] * softmax
    return None if float(left.norm()) > UNEXPLAINED * float(gradient.norm()) else weight


def weighted(calls: list[LossCall], weights: list[Float[Tensor, " rows"]]) -> Float[Tensor, ""]:
    """The weighted sum of the targets' cross-entropies, with its graph."""
    total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
    for call, weight in zip(calls, weights, strict=True):
        rows, wanted = given_rows(call), wanted_rows(call)
        wanted = wanted.masked_fill((wanted < 0) | (wanted >= rows.shape[1]), -100).long()
        logs = rows.float()
        if call.function == "nll_loss":
            each = F.nll_loss(logs, wanted, reduction="none")
        else:
            each = F.cross_entropy(logs, wanted, reduction="none", label_smoothing=call.label_smoothing)
        total = total + (weight.detach() * each).sum()
    return total


def share_of(rows: int, weights: list[Float[Tensor, " rows"]]) -> Share:
    """The sum of the weights and how many are not zero."""
    every = torch.cat([each.cpu() for each in weights])
    largest = float(every.abs().max()) if every.numel() else 0.0
    return Share(rows=rows, counted=int((every.abs() > 1e-6 * largest).sum()), weight=float(every.sum()))


def samples(subject: Subject, model: nn.Module, batch: Batch) -> int:
    """Samples in a batch: the length of the batch axis of the model's first tensor argument; 0 where there is none."""
    given = call_arguments(model, lambda: subject.loss(model, batch))
    axis = subject.batch_axis
    return next((value.shape[axis] for value in given.values() if value.dim() > axis), 0)


def of_fewer(subject: Subject, model: nn.Module, batch: Batch, rows: int) -> Share | None:
    """What the targets count for with half of the samples; None where the batch cannot be cut."""
    half = rows // 2
    if not half:
        return None
    try:
        fewer = cut(batch, rows, half, subject.batch_axis)
        if samples(subject, model, fewer) != half:
            return None
        loss, watch = watched_loss(subject, model, fewer)
        weights = weights_of(loss, watch.losses)
    except Exception:  # a stranger's batch may hold more than its tensors say
        return None
    return None if weights is None else share_of(half, weights)


def cut(value: Any, rows: int, half: int, axis: int) -> Any:
    """The first ``half`` samples of everything in a batch that is as long as the batch has samples."""
    if isinstance(value, Tensor):
        along = next((a for a in (axis, 0) if value.dim() > a and value.shape[a] == rows), None)
        return value if along is None else value.narrow(along, 0, half)
    if isinstance(value, dict):
        return {key: cut(each, rows, half, axis) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cut(each, rows, half, axis) for each in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: cut(getattr(value, field.name), rows, half, axis) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, list | tuple):
        return type(value)(cut(each, rows, half, axis) for each in value)
    return value


def other_gradient(model: nn.Module, loss: Float[Tensor, ""], data: Float[Tensor, ""]) -> float | None:
    """Norm of the gradient of loss minus cross-entropy, in units of the cross-entropy's own."""
    rest = loss.double() - data
    if abs(float(rest.detach())) <= OTHER_TERM * abs(float(loss.detach())):
        return None
    parameters = [p for p in model.parameters() if p.requires_grad]

    def norm(of: Tensor) -> float:
        gradients = torch.autograd.grad(of, parameters, retain_graph=True, allow_unused=True)
        return math.sqrt(sum(float(g.double().pow(2).sum()) for g in gradients if g is not None))

    whole = norm(data)
    return norm(rest) / whole if whole > 0 else None


def normaliser_of(call: LossCall | None) -> float | None:
    """Median of |ln sum exp| over the rows of an nll_loss."""
    if call is None or call.function != "nll_loss" or not len(call.scores):
        return None
    return float(call.scores.double().logsumexp(-1).abs().median())


def normalised_axis(watch: ForwardWatch, call: LossCall | None) -> int | None:
    """The axis of the log-softmax whose result is as large as what the loss is given; its own result comes first."""
    if call is None or call.given is None or call.by_hand:
        return None
    alike = [each for each in reversed(watch.log_softmaxes) if each[1].numel() == call.given.numel()]
    own = [each for each in alike if storage(each[1]) == storage(call.given)]
    return next((axis for _, _, axis in own or alike), None)


LOSS_ACCOUNT = Probe(
    name="loss-account",
    question="Which targets count how much in the loss, and what else is in it?",
    measure=loss_account,
)
