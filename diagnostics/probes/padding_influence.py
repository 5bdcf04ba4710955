"""Whether what fills rows up moves what the model says about the text."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from diagnostics.attention import Attention, AttentionWatch
from diagnostics.bench import Bench
from diagnostics.interventions.hide_padding import HiddenPadding, aware_of_padding
from diagnostics.model_call import call_outputs, in_double, rounding
from diagnostics.padding import (
    Lookups,
    PaddedArgument,
    beyond_first,
    by_sample,
    filled,
    looks_back,
    padded_arguments,
    token_arguments,
)
from diagnostics.probe import Probe

HIDDEN = -5e3  # a score below this is a mask's


@dataclass(frozen=True, kw_only=True)
class PaddedSource:
    """One padded argument of the model. Movements are of the outputs at real positions, in standard deviations.

    Args:
        argument: its name.
        id: of the padding.
        known_from: who says so.
        share: of the argument's ids that are padding.
        moved: by another embedding of the padding.
        moved_by_text: by another embedding of everything else, in rows that have padding.
        moved_hidden: as ``moved``, with padded keys hidden from every attention; None where it was not measured.
        attentions: how many attentions have these keys.
        seeing: how many of them give padding some weight.
        inverted: how many give it all the weight, by a mask.
        weight: mean weight of padding in the attention that gives it most.
    """

    argument: str
    id: int
    known_from: str
    share: float
    moved: float
    moved_by_text: float
    moved_hidden: float | None
    attentions: int
    seeing: int
    inverted: int
    weight: float


@dataclass(frozen=True, kw_only=True)
class PaddingInfluence:
    """The padded arguments of the model's call, in eval mode; ``rounding``: what rounding alone may move."""

    sources: tuple[PaddedSource, ...]
    rounding: float


def padding_influence(bench: Bench) -> PaddingInfluence:
    """Movements of the fresh model, or of the standing one where the fresh one does not react to the text.

    Raises:
        ValueError: no output of the model that belongs to real positions is finite.
    """
    arguments = padded_arguments(bench, bench.model.eval())
    if not arguments:
        return PaddingInfluence(sources=(), rounding=0.0)
    fresh = measured(bench, bench.model, arguments)
    moves = any(max(each.moved, each.moved_by_text) > fresh.rounding for each in fresh.sources)
    return fresh if moves else measured(bench, bench.standing_model(), arguments)


@torch.no_grad()
def measured(bench: Bench, model: nn.Module, arguments: list[PaddedArgument]) -> PaddingInfluence:
    """Movements of one model, and the weights of its attentions."""
    model = in_double(model, lambda model: bench.loss(model))
    tokens = token_arguments(bench, model, 0)
    with AttentionWatch(model, trace=False) as watch:
        plain = outputs(bench, model, tokens, arguments)
    if not plain:
        raise ValueError("no output of the model belongs to positions of its arguments, or none is finite")
    desk = Desk(bench=bench, model=model, tokens=tokens, arguments=arguments, plain=plain)
    sources = [desk.source(each, watch.attentions) for each in arguments]
    return PaddingInfluence(sources=tuple(sources), rounding=rounding(plain[0][0]))


Outputs = list[tuple[Tensor, Tensor]]
"""What a model gives, samples first, and which of its positions are real in every argument of that length."""


def outputs(
    bench: Bench, model: nn.Module, tokens: dict[str, Int[Tensor, "batch length"]], arguments: list[PaddedArgument]
) -> Outputs:
    """The outputs that belong to samples or to positions of an argument."""
    torch.manual_seed(0)  # a bench's randomness is its own
    rows, ids = len(next(iter(tokens.values()))), {each.name: each.id for each in arguments}
    real: dict[int, Tensor] = {}
    for name, values in tokens.items():
        text = (values >= 0) & (~filled(values, ids[name]) if name in ids else True)
        real[values.shape[1]] = real.get(values.shape[1], True) & text
    found = []
    for each in call_outputs(model, lambda: bench.loss(model)):
        given = each
        if given.dim() == 2 and given.shape[0] != rows and given.shape[0] % rows == 0 and not bench.subject.batch_axis:
            given = given.unflatten(0, (rows, -1))
        given = given.movedim(bench.subject.batch_axis, 0) if given.dim() > 2 else given
        if given.dim() == 3 and len(given) == rows and given.shape[1] in real:
            found.append((given, real[given.shape[1]]))
        elif given.dim() == 2 and len(given) == rows and not any(n == given.shape[1] for n in real):
            found.append((given, torch.ones(rows, dtype=torch.bool, device=given.device)))
    return [(given, at) for given, at in found if given[at].numel() and bool(given[at].isfinite().any())]


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One model, its arguments and its outputs: where embeddings are changed and outputs compared."""

    bench: Bench
    model: nn.Module
    tokens: dict[str, Tensor]
    arguments: list[PaddedArgument]
    plain: Outputs

    def source(self, argument: PaddedArgument, attentions: list[Attention]) -> PaddedSource:
        """What padding of one argument does."""
        values = self.tokens[argument.name]
        padding, inner = filled(values, argument.id), beyond_first(values, argument.id)
        moved = self.moved(values, inner, self.plain)
        weights = [w for w in (self.weight(each, argument.name, padding) for each in attentions) if w is not None]
        return PaddedSource(
            argument=argument.name,
            id=argument.id,
            known_from=argument.known_from,
            share=float(padding.double().mean()),
            moved=moved,
            moved_by_text=self.moved(values, ~padding & padding.any(1, keepdim=True), self.plain),
            moved_hidden=self.hidden(values, inner) if moved > 0 else None,
            attentions=len(weights),
            seeing=sum(mean > 1e-6 for mean, _, _ in weights),
            inverted=sum(least > 0.99 and masked for _, least, masked in weights),
            weight=max((mean for mean, _, _ in weights), default=0.0),
        )

    def hidden(self, values: Int[Tensor, "batch length"], at: Bool[Tensor, "batch length"]) -> float:
        """What a change of embeddings moves when padded keys are hidden."""
        with aware_of_padding(HiddenPadding(self.model), self.model, self.arguments, self.bench.subject.batch_axis):
            plain = outputs(self.bench, self.model, self.tokens, self.arguments)
            return self.moved(values, at, plain)

    def moved(self, values: Int[Tensor, "batch length"], at: Bool[Tensor, "batch length"], plain: Outputs) -> float:
        """Largest movement of an output at real positions when the embeddings of these ids change there."""
        with Lookups(values, at):
            edited = outputs(self.bench, self.model, self.tokens, self.arguments)
        rows, found = at.any(1), [0.0]
        for (before, real), (after, _) in zip(plain, edited, strict=False):
            one, other = before[real & (rows[:, None] if real.dim() == 2 else rows)], before[real]
            change = (after[real & (rows[:, None] if real.dim() == 2 else rows)] - one).abs()
            change, spread = change[change.isfinite()], other[other.isfinite()]
            if change.numel() and spread.numel() > 1:
                found.append(float(change.max() / spread.std().clamp_min(torch.finfo(spread.dtype).tiny)))
        return max(found)

    def weight(
        self, attention: Attention, name: str, padding: Bool[Tensor, "batch length"]
    ) -> tuple[float, float, bool] | None:
        """Mean and least weight that queries give padded keys, in rows that have some; whether a mask is laid over it.

        None where an attention has other keys, or its samples are not found.
        """
        weights, scores = by_sample(attention.used, len(padding)), by_sample(attention.scores, len(padding))
        if weights is None or scores is None or weights.shape[-1] != padding.shape[1]:
            return None
        if name != self.owner(weights.shape[-1], looks_back(scores < HIDDEN)):
            return None
        queries = self.real_queries(weights.shape[-2], padding) & padding.any(1, keepdim=True)
        given = (weights * padding[:, None, None]).sum(-1).movedim(1, -1)[queries]
        given = given[given.isfinite()].double()
        return (float(given.mean()), float(given.min()), bool(attention.masks)) if given.numel() else None

    def owner(self, length: int, back: bool) -> str:
        """The argument that keys of this length belong to."""
        names = [each.name for each in self.arguments if self.tokens[each.name].shape[1] == length]
        return names[-1 if back else 0]

    def real_queries(self, length: int, padding: Bool[Tensor, "batch length"]) -> Bool[Tensor, "batch queries"]:
        """Queries that are padding in no argument of their length."""
        real = torch.ones(len(padding), length, dtype=torch.bool, device=padding.device)
        for each in self.arguments:
            values = self.tokens[each.name]
            if values.shape[1] == length:
                real &= ~filled(values, each.id)
        return real


PADDING_INFLUENCE = Probe(
    name="padding-influence",
    question="Does padding move what the model says about the text?",
    measure=padding_influence,
)
