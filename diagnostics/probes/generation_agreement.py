"""Whether text is generated from the distribution that was trained."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import Bench, random_tokens
from diagnostics.interventions.mask_attention import DOT_PRODUCT
from diagnostics.model_call import before_softmax, in_double, random_batch, raw_logits, rounding, shift_of
from diagnostics.probe import Probe
from diagnostics.watch import ForwardWatch, TorchCalls

ROWS, REPLACEMENTS = 7, 2
DROPOUT_ARGUMENT = 10  # of multi_head_attention_forward


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How the scores that are sampled from compare with the training path's, for one model and the same contexts.

    Args:
        model: "fresh" or "standing".
        repeated: largest difference of two calls on the same context, in standard deviations of the scores.
        smallest: the smallest score; ``sum_error``: the largest distance of a row's sum from 1.
        entropy: of the sampled distribution (the softmax of the scores), nats, mean over rows.
        raw_entropy: of the softmax of the training path's raw logits at its last position, nats.
        uniform: ln V, the largest possible entropy.
        blind: whether the training path's last logits stay when the tokens that they must not know are replaced.
        differing: largest difference between the two paths' log-probabilities, both before a last softmax and
            without dropout, in standard deviations of the raw logits; None where the training path is not blind, or
            its stream no shifted copy of the targets.
        total_variation: mean over rows of half the summed difference of probabilities, 0 to 1; None likewise.
        temperature: what the raw logits are divided by to give the generated ones, by least squares; None likewise.
        besides: largest difference of the log-probabilities once that is taken into account, in standard deviations
            of the raw logits; None likewise.
        rounding: what rounding alone may move.
    """

    model: str
    repeated: float
    smallest: float
    sum_error: float
    entropy: float
    raw_entropy: float
    uniform: float
    blind: bool
    differing: float | None
    total_variation: float | None
    temperature: float | None
    besides: float | None
    rounding: float


@dataclass(frozen=True, kw_only=True)
class GenerationAgreement:
    """The same comparison on the freshly built model and on the one that stands."""

    fresh: Agreement
    standing: Agreement


def generation_agreement(bench: Bench) -> GenerationAgreement:
    """Scores of the next token as text is generated, beside the training path's, on random contexts.

    Generation is called on a model in the mode in which the user's own model stands; what it does about it is its
    own affair. The training path is read in eval mode.
    """
    return GenerationAgreement(
        fresh=agreement(bench, bench.model, "fresh"), standing=agreement(bench, bench.standing_model(), "standing")
    )


def agreement(bench: Bench, model: nn.Module, name: str) -> Agreement:
    """The comparison for one model."""
    view = bench.tokens
    assert view.next_logits is not None
    batch = random_batch(view, model, bench.batch(0), ROWS, bench.seed)
    stream, shift = view.tokens(batch), shift_of(view, batch, view.tokens(batch))
    length = view.targets(batch).shape[1] - 1 + (1 if shift is None else shift)
    model = in_double(model, lambda model: raw_logits(view, model, batch))
    trained = [raw_logits(view, model, batch)[:, -1]]
    for seed in range(REPLACEMENTS):
        edited = random_tokens(view, stream, bench.seed + seed + 1)
        edited[:, :length] = stream[:, :length]
        trained.append(raw_logits(view, model, view.with_tokens(batch, edited))[:, -1])
    context = stream[:, :length]
    model.train(bench.subject.model.training)
    with torch.no_grad():
        scores, again = (view.next_logits(model, context).detach() for _ in range(2))
        with NoDropout(), ForwardWatch() as watch:
            quiet = before_softmax(watch, view.next_logits(model, context))
    precision = max(rounding(trained[0]), rounding(scores))
    blind = all(spread_of(other - trained[0]) <= precision * spread_of(trained[0]) for other in trained[1:])
    comparable = blind and shift is not None and length > 0
    log_raw, log_quiet = trained[0].double().log_softmax(-1), quiet.double().log_softmax(-1)
    unit = max(float(trained[0].std()), torch.finfo(torch.float32).tiny)
    temperature, besides = scaled(trained[0].double(), quiet.double()) if comparable else (None, None)
    return Agreement(
        model=name,
        repeated=float((scores - again).abs().max() / scores.std().clamp_min(torch.finfo(scores.dtype).tiny)),
        smallest=float(scores.min()),
        sum_error=float((scores.double().sum(-1) - 1).abs().max()),
        entropy=entropy(scores.double().log_softmax(-1)),
        raw_entropy=entropy(log_raw),
        uniform=math.log(view.vocab_size),
        blind=blind,
        differing=float((log_raw - log_quiet).abs().max()) / unit if comparable else None,
        total_variation=float((log_raw.exp() - log_quiet.exp()).abs().sum(-1).mean() / 2) if comparable else None,
        temperature=temperature,
        besides=None if besides is None else besides / unit,
        rounding=precision,
    )


def scaled(raw: Float[Tensor, "batch vocab"], other: Float[Tensor, "batch vocab"]) -> tuple[float, float]:
    """The temperature that turns raw logits into the other ones, and how far their log-probabilities are off then."""
    centred, target = (each - each.mean(-1, keepdim=True) for each in (raw, other))
    factor = float((centred * target).sum() / centred.square().sum().clamp_min(torch.finfo(torch.float64).tiny))
    off = float(((factor * raw).log_softmax(-1) - other.log_softmax(-1)).abs().max())
    return (1 / factor if factor else math.inf), off


class NoDropout(TorchCalls):
    """While active, nothing is dropped, whatever mode the model is in."""

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand on what dropout was given, and call attention kernels with a probability of 0."""
        kwargs = dict(kwargs)
        if func in (F.dropout, torch.dropout):
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            given = dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs
            return func(**given | {"dropout_p": 0.0})
        if func is F.multi_head_attention_forward and len(args) > DROPOUT_ARGUMENT:
            args = (*args[:DROPOUT_ARGUMENT], 0.0, *args[DROPOUT_ARGUMENT + 1 :])
        return func(*args, **kwargs)


def spread_of(values: Tensor) -> float:
    """The largest absolute value."""
    return float(values.abs().max())


def entropy(log_probabilities: Float[Tensor, "batch vocab"]) -> float:
    """Mean entropy of distributions, nats."""
    shares = log_probabilities.exp()
    return float(-(shares * log_probabilities.clamp_min(-1e300)).sum(-1).mean())


GENERATION_AGREEMENT = Probe(
    name="generation-agreement",
    question="Is text generated from the distribution that was trained?",
    measure=generation_agreement,
    needs=("token_view", "token_view.next_logits"),
)
