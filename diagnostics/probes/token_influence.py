"""Which edited tokens move which logits, end to end: through the token view and per argument of the model."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import Bench, random_tokens
from diagnostics.interventions.mask_attention import AttentionMask, causal
from diagnostics.interventions.renormalise import renormalised
from diagnostics.model_call import (
    call_arguments,
    edited_arguments,
    in_double,
    random_batch,
    raw_logits,
    rounding,
    shift_of,
)
from diagnostics.probe import Probe
from diagnostics.probes.normalised_axes import normalising_modules
from diagnostics.subject import Batch, TokenView

POSITIONS = 16  # edited positions of a long context, evenly spaced; each costs a row of a small batch
STREAM = "the token stream"


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Largest movements of a predicted position's logits, in standard deviations of all logits.

    Args:
        earlier: when a token that it may know is edited.
        own: when the token that it must predict is edited.
        later: when a token behind that one is edited.
        reach: how many positions behind its own target the farthest such token lies; 0 if none moves it.
    """

    earlier: float
    own: float
    later: float
    reach: int


@dataclass(frozen=True, kw_only=True)
class SourceInfluence:
    """What one source of tokens moves.

    Args:
        source: name of the model's argument, or STREAM for the stream behind the batch (all arguments at once).
        shift: k, for a source that holds target i - k at its position i; 1 for an ordinary input.
        plain: with the model as it is.
        norms_aside: with modules that normalise over positions made to normalise over features.
        masked: with these and with every attention over the window masked; what is left needs no attention.
        edited: the edited positions of the source.
        sees: for each of them, the predicted positions whose logits move.
    """

    source: str
    shift: int
    plain: Movement
    norms_aside: Movement
    masked: Movement
    edited: tuple[int, ...]
    sees: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TokenInfluence:
    """Which tokens move which logits.

    Args:
        sources: arguments that hold the targets, shifted, in the order of the call; the stream last.
        skipped: arguments of whole numbers that are no shifted copy of the targets.
        norms: modules that normalise over positions.
        honest: for each predicted position, whether no edited token at or behind its own target moves it.
        rounding: what rounding alone may move.
    """

    sources: tuple[SourceInfluence, ...]
    skipped: tuple[str, ...]
    norms: tuple[str, ...]
    honest: tuple[bool, ...]
    rounding: float


def token_influence(bench: Bench) -> TokenInfluence:
    """Movements of the logits in eval mode, in double precision where the model allows, before a last softmax.

    The freshly built model is asked first; where no edit moves it (a head that starts at zero), the standing one is.
    """
    fresh = measured(bench, bench.model)
    moves = any(max(s.plain.earlier, s.plain.own, s.plain.later) > fresh.rounding for s in fresh.sources)
    return fresh if moves else measured(bench, bench.standing_model())


def measured(bench: Bench, model: nn.Module) -> TokenInfluence:
    """Movements of one model's logits."""
    view = bench.tokens
    given = bench.batch(0)
    rows = min(POSITIONS, view.tokens(given).shape[1]) + 1
    batch = random_batch(view, model, given, rows, bench.seed)
    model = in_double(model, lambda model: raw_logits(view, model, batch))
    norms = normalising_modules(model, lambda: view.logits(model, batch), bench.subject.batch_axis).over("time")
    desk = Desk(
        view=view, model=model, batch=batch, batch_axis=bench.subject.batch_axis, norms=tuple(n.name for n in norms)
    )
    influences, skipped = [], []
    for source, values in desk.sources().items():
        shift = shift_of(view, batch, values)
        if shift is None:
            skipped.append(source)
        else:
            influences.append(desk.influence(source, values, shift))
    dishonest = {j for influence in influences for j in seen_too_soon(influence)}
    return TokenInfluence(
        sources=tuple(influences),
        skipped=tuple(skipped),
        norms=desk.norms,
        honest=tuple(j not in dishonest for j in range(view.targets(batch).shape[1])),
        rounding=desk.rounding,
    )


def own_target_arguments(influence: TokenInfluence) -> tuple[str, ...]:
    """Arguments that hold the targets and let each one move its own prediction, whatever attention and norms do."""
    return tuple(
        source.source
        for source in influence.sources
        if source.source != STREAM and source.shift <= 0 and source.masked.own > influence.rounding
    )


def seen_too_soon(influence: SourceInfluence) -> set[int]:
    """Predicted positions that a token at or behind their own target moves."""
    return {
        predicted
        for position, row in zip(influence.edited, influence.sees, strict=True)
        for predicted, moves in enumerate(row)
        if moves and position - influence.shift >= predicted
    }


class Desk:
    """One model, one random batch and its logits: where single tokens are edited and the logits compared."""

    def __init__(
        self, *, view: TokenView, model: nn.Module, batch: Batch, batch_axis: int, norms: tuple[str, ...]
    ) -> None:
        self.view, self.model, self.batch, self.batch_axis, self.norms = view, model, batch, batch_axis, norms
        self.unedited: dict[tuple[bool, bool], Tensor] = {}
        self.rounding = rounding(self.plain(norms=False, mask=False))

    def plain(self, *, norms: bool, mask: bool) -> Float[Tensor, "batch time vocab"]:
        """The logits without an edit, computed once for each state of norms and attention."""
        if (norms, mask) not in self.unedited:
            with self.changed(norms=norms, mask=mask):
                self.unedited[norms, mask] = raw_logits(self.view, self.model, self.batch)
        return self.unedited[norms, mask]

    def sources(self) -> dict[str, Int[Tensor, "batch length"]]:
        """Whole-number arguments of the model with two axes, batch first; and the stream behind the batch."""
        arguments = call_arguments(self.model, lambda: self.view.logits(self.model, self.batch))
        rows = len(self.view.targets(self.batch))
        found = {name: value.movedim(self.batch_axis, 0) for name, value in arguments.items() if value.dim() == 2}
        whole = {
            name: value
            for name, value in found.items()
            if not value.is_floating_point() and value.dtype != torch.bool and len(value) == rows
        }
        return whole | {STREAM: self.view.tokens(self.batch)}

    def influence(self, source: str, values: Int[Tensor, "batch length"], shift: int) -> SourceInfluence:
        """What edits of this source move, plainly and with norms and attention set right."""
        positions = spread(values.shape[1], POSITIONS)
        moved = self.moved(source, values, positions)
        plain = summary(moved, positions, shift, self.rounding)
        aside = masked = plain
        if max(plain.own, plain.later) > self.rounding:
            if self.norms:
                aside = summary(self.moved(source, values, positions, norms=True), positions, shift, self.rounding)
            masked = summary(
                self.moved(source, values, positions, norms=True, mask=True), positions, shift, self.rounding
            )
        return SourceInfluence(
            source=source,
            shift=shift,
            plain=plain,
            norms_aside=aside,
            masked=masked,
            edited=tuple(positions),
            sees=tuple(tuple(bool(each > self.rounding) for each in row) for row in moved),
        )

    def moved(
        self,
        source: str,
        values: Int[Tensor, "batch length"],
        positions: list[int],
        *,
        norms: bool = False,
        mask: bool = False,
    ) -> Float[Tensor, "positions time"]:
        """Largest movement of each position's logits for each edited position.

        Each row of the batch carries one edit and the last row none; if that one moves too, rows are coupled and the
        edits are made one by one.
        """
        other = random_tokens(self.view, values, 1)
        other = torch.where(other == values, (other + 1) % self.view.vocab_size, other)

        def logits(edits: list[tuple[int, int]]) -> Float[Tensor, "batch time vocab"]:
            edited = values.clone()
            for row, position in edits:
                edited[row, position] = other[row, position]
            with self.changed(norms=norms, mask=mask):
                return self.logits_with(source, edited)

        plain, rows = self.plain(norms=norms, mask=mask), max(1, len(values) - 1)
        scale = plain.std().clamp_min(torch.finfo(plain.dtype).tiny)
        movements: list[Tensor] = []
        for start in range(0, len(positions), rows):
            edits = list(enumerate(positions[start : start + rows]))
            together = (logits(edits) - plain).abs().amax(-1) / scale
            coupled = len(values) == 1 or bool(together[-1].max() > self.rounding)
            for row, position in edits:
                alone = (logits([(row, position)]) - plain).abs().amax(-1) / scale if coupled else together
                movements.append(alone[row])
        return torch.stack(movements)

    @contextmanager
    def changed(self, *, norms: bool, mask: bool) -> Iterator[None]:
        """Inside, normalisations over positions or attention over the window are set right."""
        with ExitStack() as stack:
            if norms:
                stack.enter_context(renormalised(self.model, self.norms))
            if mask:
                stack.enter_context(AttentionMask(causal))
            yield

    def logits_with(self, source: str, edited: Int[Tensor, "batch length"]) -> Float[Tensor, "batch time vocab"]:
        """The raw logits when this source holds these tokens."""
        if source == STREAM:
            return raw_logits(self.view, self.model, self.view.with_tokens(self.batch, edited))
        value = edited.movedim(0, self.batch_axis)
        with edited_arguments(self.model, lambda name, given: value if name == source else given):
            return raw_logits(self.view, self.model, self.batch)


def spread(length: int, most: int) -> list[int]:
    """At most this many positions of a window, the first and the last among them."""
    if length <= most:
        return list(range(length))
    return sorted({round(index * (length - 1) / (most - 1)) for index in range(most)})


def summary(moved: Float[Tensor, "positions time"], positions: list[int], shift: int, precision: float) -> Movement:
    """The movements of earlier, own and later tokens."""
    target = torch.tensor(positions)[:, None] - shift
    predicted = torch.arange(moved.shape[1])[None]
    values = moved.detach().cpu()

    def largest(where: Tensor) -> float:
        return float(values[where].max()) if where.any() else 0.0

    too_soon = (target > predicted) & (values > precision)
    return Movement(
        earlier=largest(target < predicted),
        own=largest(target == predicted),
        later=largest(target > predicted),
        reach=int((target - predicted)[too_soon].max()) if too_soon.any() else 0,
    )


TOKEN_INFLUENCE = Probe(
    name="token-influence",
    question="Which tokens move which logits?",
    measure=token_influence,
    needs=("token_view",),
)
