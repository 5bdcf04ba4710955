"""How large the numbers are on their way from the embedding to the logits."""

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import ForwardWatch, LossCall, TorchCalls, head_input, watched_loss

GAIN = 4.0  # the embedding is made this many times larger, and we watch what becomes larger with it
CLEAR = 0.1  # entries of a token vector below this share of its RMS are left out of quotients: rounding
ROWS = 256  # as many rows of logits give their standard deviation
SAME = 0.01  # relative width within which numbers count as one level
UNMOVED = 0.05  # relative change below which an input counts as normalised; a norm's epsilon moves 0.02-sized ones


@dataclass(frozen=True, kw_only=True)
class StreamScale:
    """Root mean squares (RMS) of a freshly initialised model, dropout off. None: could not be told.

    Args:
        width: features of the stream where it enters the first module with parameters.
        entry_rms: RMS of that stream.
        vectors_rms: RMS of the token vectors as the embedding table gives them.
        token_rms: RMS of the stream's part that grows with the token vectors.
        position_rms: RMS of the stream's part that does not.
        token_gain: how often the token vectors are in the stream: stream = token_gain * vectors + rest.
        training_gains: the smallest and the largest such factor of one entry with dropout on; 0 where dropout
            takes the whole entry away.
        head_input_rms: RMS of what goes into the last matrix.
        head_gain: how many times larger that becomes with GAIN times larger token vectors.
        normalised_inputs: share of the inputs of modules and matrix products that do not change their RMS then.
        classes: width of the logits.
        logit_std: standard deviation of the logits within a row, averaged over up to ROWS rows; before any softmax.
        raw_loss: cross-entropy of those logits, nats; ln(classes) for a model that says nothing.
        depth: (module, RMS of its input) for the members of module lists, in the order of the calls.
    """

    width: int | None = None
    entry_rms: float | None = None
    vectors_rms: float | None = None
    token_rms: float | None = None
    position_rms: float | None = None
    token_gain: float | None = None
    training_gains: tuple[float, float] | None = None
    head_input_rms: float | None = None
    head_gain: float | None = None
    normalised_inputs: float = 0.0
    classes: int | None = None
    logit_std: float | None = None
    raw_loss: float | None = None
    depth: tuple[tuple[str, float], ...] = ()


class EntrySeenError(Exception):
    """The stream has been seen, and the rest of the forward pass is not needed."""


@dataclass
class EntryWatch(TorchCalls):
    """Watches token vectors until they enter the first module with parameters; multiplies them by ``gain``.

    ``vectors`` are the latest token vectors before the stream, unmultiplied; ``stream`` is what the module gets.
    ``depth`` has the RMS of what enters the layers, ``inputs`` of what enters any module with parameters.
    ``entry_only`` ends the pass at the stream by raising EntrySeenError. ``on_entry`` takes each stream (an
    encoder-decoder has two) and its token vectors, and gives the stream that the module gets instead.
    """

    gain: float = 1.0
    entry_only: bool = False
    on_entry: Callable[[Tensor, Tensor], Tensor] | None = None
    vectors: Tensor | None = None
    stream: Tensor | None = None
    depth: list[tuple[str, float]] = field(default_factory=list)
    inputs: list[float] = field(default_factory=list)
    _waiting: Tensor | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen; multiply and remember token vectors."""
        result = func(*args, **kwargs)
        if func is F.embedding and not counts_positions(args[0] if args else kwargs["input"]):
            if self.stream is None:
                self.vectors = result.detach()
            result = self._waiting = result * self.gain
        return result

    def before(self, name: str, is_layer: bool) -> Callable[..., Any]:
        """A forward pre-hook for the module of that name."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            entering = next((x for x in args[:1] if isinstance(x, Tensor) and x.is_floating_point()), None)
            if entering is None:
                return None
            if self.stream is None:
                self.stream = entering.detach()
                if self.entry_only:
                    raise EntrySeenError
            self.inputs.append(rms(entering))
            if is_layer and entering.shape == self.stream.shape:
                self.depth.append((name, self.inputs[-1]))
            waiting, self._waiting = self._waiting, None
            if self.on_entry is None or waiting is None or waiting.shape != entering.shape:
                return None
            return (self.on_entry(entering, waiting), *args[1:]), kwargs

        return hook


@contextmanager
def watched_entry(model: nn.Module, watch: EntryWatch) -> Iterator[EntryWatch]:
    """Everything inside runs under the watch; the model is as before afterwards.

    A watch that changes the stream comes before those that only look at it.
    """
    handles = [
        module.register_forward_pre_hook(
            watch.before(name, is_layer(name, module)), with_kwargs=True, prepend=watch.on_entry is not None
        )
        for name, module in model.named_modules()
        if not isinstance(module, nn.Embedding) and next(module.parameters(), None) is not None
    ]
    try:
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def is_layer(name: str, module: nn.Module) -> bool:
    """Whether a module is a compound member of a list of modules."""
    return re.search(r"(^|\.)\d+$", name) is not None and next(module.children(), None) is not None


def counts_positions(ids: Int[Tensor, "..."]) -> bool:
    """Whether ids are 0, 1, 2, ... or all the same in every row: positions or segments rather than tokens."""
    rows = ids.squeeze().reshape(-1, ids.squeeze().shape[-1]) if ids.squeeze().dim() else ids.reshape(1, 1)
    steps = rows.diff(dim=-1)
    if steps.numel() == 0 or not bool((rows == rows[:1]).all()):
        return False
    return int(steps[0, 0]) in (0, 1) and bool((steps == steps[0, 0]).all())


def rms(numbers: Float[Tensor, "..."]) -> float:
    """Root mean square."""
    return float(torch.linalg.vector_norm(numbers.detach().float())) / math.sqrt(max(numbers.numel(), 1))


def raw_scores(watch: ForwardWatch, call: LossCall) -> Float[Tensor, "targets classes"]:
    """The rows of a loss call before their softmax; the rows themselves where there was none.

    Where the softmax was not seen row for row (ignored targets), the logarithm of the probabilities stands in.
    """
    scores = call.scores
    if not scores.numel() or scores.min() < 0 or (scores.sum(-1) - 1).abs().max() > SAME:
        return scores
    for before, after, axis in reversed(watch.softmaxes):
        if after.shape[axis] != scores.shape[1] or after.numel() != scores.numel():
            continue
        if torch.equal(after.detach().movedim(axis, -1).reshape_as(scores), scores):
            return before.detach().movedim(axis, -1).reshape_as(scores)
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()


def watched_pass(bench: Bench, gain: float) -> tuple[EntryWatch, ForwardWatch]:
    """What was seen on one forward pass of the bench's model on its first batch, dropout off."""
    bench.model.eval()
    with torch.no_grad(), watched_entry(bench.model, EntryWatch(gain=gain)) as entry:
        _, forward = watched_loss(bench.subject, bench.model, bench.batch(0))
    return entry, forward


def training_entry(bench: Bench, gain: float) -> EntryWatch:
    """The stream's entry with dropout on, the same random numbers for every gain."""
    bench.model.train()
    torch.manual_seed(bench.seed)
    watch = EntryWatch(gain=gain, entry_only=True)
    with torch.no_grad(), suppress(EntrySeenError), watched_entry(bench.model, watch):
        bench.loss()
    return watch


def gains(once: EntryWatch, louder: EntryWatch) -> Float[Tensor, " entries"] | None:
    """d stream / d vectors, entry by entry, where the two have the same layout (or its transpose)."""
    if once.vectors is None or once.stream is None or louder.stream is None:
        return None
    vectors = once.vectors
    if vectors.shape != once.stream.shape and vectors.dim() == 3:
        vectors = vectors.transpose(0, 1)
    if vectors.shape != once.stream.shape:
        return None
    clear = vectors.abs() > CLEAR * rms(vectors)
    moved = (louder.stream - once.stream)[clear] / (louder.gain - once.gain)
    return moved / vectors[clear] if bool(clear.any()) else None


def normalised_share(once: list[float], louder: list[float]) -> float:
    """Share of inputs that have the same RMS in both passes."""
    pairs = list(zip(once, louder, strict=False))
    return sum(abs(after - before) < UNMOVED * before for before, after in pairs) / len(pairs) if pairs else 0.0


def product_inputs(watch: ForwardWatch) -> list[float]:
    """RMS of the first factor of every matrix product."""
    return [rms(given) for given, _ in watch.products if given.is_floating_point()]


def entry_scale(once: EntryWatch, louder: EntryWatch) -> dict[str, Any]:
    """The fields of StreamScale that concern the entry of the stream."""
    if once.stream is None:
        return {}
    facts: dict[str, Any] = {
        "width": once.stream.shape[-1],
        "entry_rms": rms(once.stream),
        "vectors_rms": None if once.vectors is None else rms(once.vectors),
        "depth": tuple(once.depth),
    }
    if once.vectors is not None and louder.stream is not None:
        token_part = (louder.stream - once.stream) / (louder.gain - once.gain)
        facts |= {"token_rms": rms(token_part), "position_rms": rms(once.stream - token_part)}
    factors = gains(once, louder)
    if factors is not None and float(factors.max() - factors.min()) < SAME * abs(float(factors.median())):
        facts["token_gain"] = float(factors.median())
    return facts


def head_scale(once: ForwardWatch, louder: ForwardWatch, embedded: bool) -> dict[str, Any]:
    """The fields of StreamScale that concern the head and the logits."""
    if not once.losses:
        return {}
    call = once.losses[-1]
    rows = raw_scores(once, call)
    classes = call.scores.shape[1]
    facts: dict[str, Any] = {
        "classes": classes,
        "logit_std": float(rows[:ROWS].std(-1).mean()),
        "raw_loss": float(F.cross_entropy(rows.float(), call.targets)),
    }
    before, after = head_input(once, classes), head_input(louder, classes)
    if before is not None and after is not None:
        facts["head_input_rms"] = rms(before)
        if embedded and rms(before) > 0:
            facts["head_gain"] = rms(after) / rms(before)
    return facts


def training_gains(bench: Bench) -> tuple[float, float] | None:
    """The smallest and the largest factor of a token vector's entry in the stream while dropout is on."""
    factors = gains(training_entry(bench, 1.0), training_entry(bench, GAIN))
    return None if factors is None else (float(factors.abs().min()), float(factors.abs().max()))


def stream_scale(bench: Bench) -> StreamScale:
    """The sizes of a freshly initialised model's numbers, and which of them follow the embedding."""
    once, forward = watched_pass(bench, 1.0)
    louder, louder_forward = watched_pass(bench, GAIN)
    embedded = once.vectors is not None
    return StreamScale(
        **entry_scale(once, louder),
        **head_scale(forward, louder_forward, embedded),
        normalised_inputs=normalised_share(
            once.inputs + product_inputs(forward), louder.inputs + product_inputs(louder_forward)
        )
        if embedded
        else 0.0,
        training_gains=training_gains(bench) if embedded else None,
    )


STREAM_SCALE = Probe(
    name="stream-scale",
    question="How large are the numbers from the embedding to the logits, and does anything normalise them?",
    measure=stream_scale,
)
