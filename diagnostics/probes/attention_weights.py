"""What every attention of one forward pass does with its scores, seen from outside."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diagnostics.attention import Attention, AttentionWatch, Map, Trace
from diagnostics.bench import Bench
from diagnostics.probe import Probe

HIDDEN = -5e3  # a score below this is a mask's; masks in half precision use -1e4
FEWEST = 3  # keys that a row must be able to choose from before its largest weight says anything


@dataclass(frozen=True, kw_only=True)
class AttentionFacts:
    """One attention. Weights are those of finite rows; None where there are none, or where it is not known.

    Args:
        form: the call that it was made of.
        queries, keys, d_k: its sizes.
        finite: whether the products of queries and keys are finite.
        used_sum_error: largest distance from 1 of a row of the weights that multiply the values, summed over the keys.
        softmax_sum_error: the same of what came out of the softmax.
        removed: largest weight, per row, that the softmax gave to keys that were taken out afterwards, without the
            rest being made to sum to 1 again.
        smallest: smallest weight that multiplies a value.
        masked: whether a mask was laid over the scores.
        mask_value: what hides a key in the mask that leaves hidden keys the most weight.
        hidden_weight: largest weight, per row, that they keep.
        past, own, future: share of the pairs (query, key) with the key before, at and behind the query that some head
            of some sample may use; without the first and the last query. None unless there are as many keys as queries.
        spread: standard deviation of the scores that one query may choose from.
        factor: what the product of projected queries and keys is multiplied by before the softmax.
        query_to_key: RMS of the queries over that of the keys.
        top: mean of the largest weight over rows with at least three keys to choose from.
        one_key: share of samples and heads in which every query puts most weight on the same key.
        mixed_before: whether features of one position are spread over several queries (or keys, or values).
        mixed_behind: whether one position of the output is put together from several queries.
        shared: which of query, key and value come from the same weights.
        unused: parameters of the shape of the shared weights that this forward pass never uses.
    """

    form: str
    queries: int
    keys: int
    d_k: int
    finite: bool
    used_sum_error: float | None
    softmax_sum_error: float | None
    removed: float | None
    smallest: float | None
    masked: bool
    mask_value: float | None
    hidden_weight: float | None
    past: float | None
    own: float | None
    future: float | None
    spread: float | None
    factor: float | None
    query_to_key: float | None
    top: float | None
    one_key: float | None
    mixed_before: bool | None
    mixed_behind: bool | None
    shared: tuple[str, ...]
    unused: int

    @property
    def square(self) -> bool:
        """Whether this can be a window that looks at itself."""
        return self.past is not None


@dataclass(frozen=True, kw_only=True)
class AttentionWeights:
    """The attentions of one forward pass in eval mode, in the order of their calls; untrained where possible."""

    attentions: tuple[AttentionFacts, ...]
    untrained: bool

    @property
    def windows(self) -> list[AttentionFacts]:
        """Attentions of a window to itself, with finite numbers."""
        return [each for each in self.attentions if each.square and each.finite]


def attention_weights(bench: Bench) -> AttentionWeights:
    """What each attention does while the loss of the first batch is computed."""
    model = bench.model.eval()
    with AttentionWatch(model) as watch:
        bench.loss()
    facts = tuple(facts_of(each, watch, model) for each in watch.attentions)
    return AttentionWeights(attentions=facts, untrained=bench.subject.build is not None)


def facts_of(attention: Attention, watch: AttentionWatch, model: nn.Module) -> AttentionFacts:
    """The facts of one attention."""
    mask_value, hidden_weight = weakest_mask(attention)
    past, own, future = seen_shares(attention)
    top, one_key = focus(attention)
    before = spread_over_positions(attention)
    shared = shared_projections(attention)
    return AttentionFacts(
        form=attention.form,
        queries=attention.raw.shape[-2],
        keys=attention.raw.shape[-1],
        d_k=attention.d_k,
        finite=bool(attention.raw.isfinite().all()),
        used_sum_error=sum_error(attention.used),
        softmax_sum_error=sum_error(attention.softmax),
        removed=removed_weight(attention),
        smallest=None if attention.used.isnan().all() else float(attention.used.nan_to_num(1.0).min()),
        masked=any(not after for _, _, after in attention.masks),
        mask_value=mask_value,
        hidden_weight=hidden_weight,
        past=past,
        own=own,
        future=future,
        spread=score_spread(attention),
        factor=factor(attention),
        query_to_key=attention.query_rms / attention.key_rms if attention.key_rms > 0 else None,
        top=top,
        one_key=one_key,
        mixed_before=before,
        mixed_behind=None if before is None else attention.mixed_back,
        shared=shared,
        unused=unused_like(attention, watch, model) if shared else 0,
    )


def sum_error(weights: Float[Tensor, "*rows query key"]) -> float | None:
    """Largest distance from 1 of a finite row's sum; rows that are all zero (all hidden) are left out."""
    rows = weights.double().sum(-1)
    rows = rows[rows.isfinite() & (weights != 0).any(-1)]
    return float((rows - 1).abs().max()) if rows.numel() else None


def removed_weight(attention: Attention) -> float | None:
    """Largest weight, per row, that was given by the softmax and taken out behind it without a new normalisation."""
    used, softmax = attention.used, attention.softmax
    gone = (used <= 0) & (softmax > 0)
    rows = (used > 0).any(-1) & softmax.isfinite().all(-1) & ~((used.double().sum(-1) - 1).abs() < 1e-3)
    lost = torch.where(gone, softmax, torch.zeros_like(softmax)).sum(-1)[rows]
    return float(lost.max()) if lost.numel() else None


def weakest_mask(attention: Attention) -> tuple[float | None, float | None]:
    """The value and the remaining weight of the mask that leaves what it hides the most weight."""
    worst: tuple[float | None, float | None] = (None, None)
    if (sum_error(attention.softmax) or 0.0) > 0.01:
        return worst  # the softmax is over another axis; what a mask leaves there is nobody's weight
    for hidden, value, after in attention.masks:
        rows = ~hidden.all(-1) & attention.softmax.isfinite().all(-1)
        kept = (attention.softmax * hidden).sum(-1)[rows]
        weight = float(kept.max()) if kept.numel() else None
        if not after and weight is not None and (worst[1] is None or weight > worst[1]):
            worst = (value, weight)
    return worst


def visible(attention: Attention) -> Bool[Tensor, "*rows query key"]:
    """Keys that a mask leaves a query."""
    return attention.scores > HIDDEN


def seen_shares(attention: Attention) -> tuple[float | None, float | None, float | None]:
    """Share of the earlier, the own and the later keys that some sample and head may use, inner queries only."""
    length = attention.raw.shape[-1]
    if attention.raw.shape[-2] != length or length < 3:
        return None, None, None
    seen = visible(attention).flatten(0, -3).any(0) if attention.raw.dim() > 2 else visible(attention)
    gap = torch.arange(length)[None] - torch.arange(length)[:, None]
    inner = torch.ones(length, length, dtype=torch.bool)
    inner[[0, -1]] = False
    seen = seen.cpu()

    def share(where: Tensor) -> float:
        return float(seen[where & inner].double().mean())

    return share(gap < 0), share(gap == 0), share(gap > 0)


def score_spread(attention: Attention) -> float | None:
    """Standard deviation of the scores that one query may choose from, over all queries."""
    seen = visible(attention) & attention.scores.isfinite()
    count = seen.sum(-1)
    scores = torch.where(seen, attention.scores, torch.zeros_like(attention.scores)).double()
    mean = scores.sum(-1) / count.clamp_min(1)
    variance = (torch.where(seen, scores - mean[..., None], torch.zeros_like(scores)).square().sum(-1) / (count - 1))[
        count >= FEWEST
    ]
    return float(variance.mean().sqrt()) if variance.numel() else None


def factor(attention: Attention) -> float | None:
    """What stands between the product of projected queries and keys and the softmax; None where it is no one factor."""
    traces = [attention.query, attention.key]
    known = [t.factor if t is not None and isinstance(t.source, Map) else None for t in traces]
    if attention.form == "multi_head_attention_forward":
        known = [1.0, 1.0]
    if None in known:
        return None
    seen = visible(attention) & attention.scores.isfinite() & attention.raw.isfinite()
    raw, scores = attention.raw[seen].double(), attention.scores[seen].double()
    if raw.numel() < 3 or float(raw.std()) == 0 or float(scores.std()) == 0:
        return None
    raw, scores = raw - raw.mean(), scores - scores.mean()
    slope = float((raw * scores).mean() / raw.square().mean())
    straight = float((scores - slope * raw).square().mean() / scores.square().mean()) < 1e-3
    return slope * math.prod(f for f in known if f is not None) if straight else None


def focus(attention: Attention) -> tuple[float | None, float | None]:
    """Mean largest weight, and share of samples and heads in which one key is every query's favourite."""
    rows = (visible(attention).sum(-1) >= FEWEST) & attention.softmax.isfinite().all(-1)
    if not bool(rows.any()):
        return None, None
    top, at = attention.softmax.max(-1)
    favourite = torch.where(rows, at, at.new_full((), -1))
    highest, lowest = favourite.amax(-1), torch.where(rows, at, at.new_full((), at.numel())).amin(-1)
    return float(top[rows].mean()), float((highest == lowest).double().mean())


def spread_over_positions(attention: Attention) -> bool | None:
    """Whether the features of one projected position are spread over several positions of queries, keys or values."""
    found = [split_wrongly(trace) for trace in (attention.query, attention.key, attention.value)]
    known = [each for each in found if each is not None]
    return any(known) if known else None


def split_wrongly(trace: Trace | None) -> bool | None:
    """Whether one row of a linear map's output lands at several positions of (..., time, feature)."""
    if trace is None or not isinstance(trace.source, Map) or trace.index.dim() < 3:
        return None
    width, (length, d_k) = trace.source.outcome[-1], trace.index.shape[-2:]
    if length < 2 or d_k < 2 or len(trace.source.outcome) < 2:
        return None
    columns = trace.index % width
    if bool((columns[..., 0] == columns[..., 1]).all()):
        return None  # attention between features, not between positions
    rows, count = (trace.index // width).long(), math.prod(trace.source.outcome[:-1])
    position = torch.arange(length, device=rows.device)[:, None].expand_as(rows)
    first = torch.full((count,), length, device=rows.device).scatter_reduce(
        0, rows.flatten(), position.flatten(), "amin"
    )
    last = torch.full((count,), -1, device=rows.device).scatter_reduce(0, rows.flatten(), position.flatten(), "amax")
    split = bool((last > first).any())
    repeated = trace.index.flatten().unique().numel() < trace.index.numel()
    return None if split and repeated else split


def shared_projections(attention: Attention) -> tuple[str, ...]:
    """Which of query, key and value come from the same columns of the same weights."""
    sources: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name in ("query", "key", "value"):
        trace: Trace | None = getattr(attention, name)
        if trace is not None and isinstance(trace.source, Map):
            columns = (trace.index.flatten() % trace.source.outcome[-1]).unique()
            edges = (int(columns.min()), int(columns.max()), columns.numel())
            sources.setdefault((trace.source.weight, edges), []).append(name)
    return next((tuple(names) for names in sources.values() if len(names) > 1), ())


def unused_like(attention: Attention, watch: AttentionWatch, model: nn.Module) -> int:
    """How many matrices of the shape of the shared one the forward pass does not use."""
    used = {each.weight for each in watch.maps}
    traces = (attention.query, attention.key, attention.value)
    weights = {t.source.weight for t in traces if t is not None and isinstance(t.source, Map)}
    shapes = {p.shape for p in model.parameters() if p.data_ptr() in weights and p.dim() == 2}
    return sum(p.dim() == 2 and p.shape in shapes and p.data_ptr() not in used for p in model.parameters())


ATTENTION_WEIGHTS = Probe(
    name="attention-weights",
    question="What does every attention do with its scores, and which keys may a query use?",
    measure=attention_weights,
)
