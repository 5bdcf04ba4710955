"""From a recording to a subject, and what is to be said about how well the one stands for the other."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from diagnostics.adapt import check_scope, default_build, token_view_or_reason
from diagnostics.bench import private_randomness
from diagnostics.capture.optimization import USUAL, factories_of, loop_of, schedule_seen, stepped, together
from diagnostics.capture.passes import data_of, is_always_the_same
from diagnostics.capture.recorder import is_table
from diagnostics.capture.recording import Recording
from diagnostics.capture.replay import Reproduction, as_seen, in_usual_order, reproduced
from diagnostics.capture.replica import Replica, named_tensors, replica_of
from diagnostics.capture.tape import RecordedBatch, Tape, held
from diagnostics.copies import model_copy, private_model
from diagnostics.leaves import leaves
from diagnostics.subject import Batch, LossHistory, Subject, TokenView

HELD = 3  # losses of early steps that the script still holds: it holds all of them
LATE = 5  # the last steps' losses may be held by accident


@dataclass(frozen=True, kw_only=True)
class Captured:
    """A subject that stands for a script.

    Args:
        reproduction: the script's first losses, and the same played again on the subject.
    """

    subject: Subject
    reproduction: Reproduction


def captured(recording: Recording, starts: Mapping[int, Mapping[str, Tensor]] = MappingProxyType({})) -> Captured:
    """The subject that a recording shows.

    Args:
        starts: seed -> the numbers that the script's model starts from with another seed (`observation.start_of`).
            Other seeds start from the script's own numbers, shuffled within each matrix.

    Raises:
        ValueError: it shows none; says why in one line.
    """
    replica = replica_of(recording)
    check_scope(replica.model)
    factories = factories_of(recording, replica.model)
    seen = reproduced(replica, factories, as_seen)
    usual = seen if seen.exact else reproduced(replica, factories, in_usual_order)
    best = usual if usual.exact else seen
    lacks: dict[str, str] = {}
    axis, view = axis_and_view(replica, lacks)
    loop = loop_of(
        replica.windows,
        order=USUAL[0] if usual.exact and usual is not seen else None,
        normalised=replica.is_normalised,
        training=replica.is_trained_in_training_mode,
    )
    data = data_of(recording.events, {event: each.batch for event, each in replica.played.items()})
    subject = Subject(
        model=replica.model,
        loss=lambda model, batch: batch.tape.play(model, batch),
        batches=data.batches,
        optimizer=together([factories[number] for number in stepped(recording)]),
        build=started(replica.start, starts, lacks),
        schedule=schedule_seen(recording),
        clip_norm=loop.clip_norm if loop.is_usual else None,
        step=None if loop.is_usual else loop.step,
        whole_data=data.whole,
        heldout=(lambda seed: iter(replica.heldout)) if replica.heldout else None,
        history=history_of(recording),
        token_view=view,
        batch_axis=axis,
        name=recording.name,
        lacks=lacks,
        notes=tuple(notes_on(recording, replica, best, starts)),
    )
    return Captured(subject=subject, reproduction=best)


def started(
    start: nn.Module, starts: Mapping[int, Mapping[str, Tensor]], lacks: dict[str, str]
) -> Callable[[int], nn.Module] | None:
    """seed -> a model before its first step: the script's own for seed 0, one of the other starts, or other numbers."""
    redrawn = default_build(start, lacks)
    if redrawn is None:
        return None
    own = {name: tensor.shape for name, tensor in named_tensors(start)}
    fitting = {
        seed: numbers
        for seed, numbers in starts.items()
        if all(own.get(name) == tensor.shape for name, tensor in numbers.items())
    }

    def build(seed: int) -> nn.Module:
        if seed != 0 and seed not in fitting:
            return redrawn(seed)
        model = model_copy(start)
        with torch.no_grad():
            for name, tensor in fitting.get(seed, {}).items():
                held(model, name).copy_(tensor)
        return model

    return build


def history_of(recording: Recording) -> LossHistory:
    """The loss of each step; the script's own tensors where it holds them, with the graphs behind them."""
    held, values = [], []
    for window in recording.windows:
        value = float(sum(float(each.value) for each in window.backwards))
        values.append(value)
        alive = [each.alive() for each in window.backwards]
        held.append(alive[0] if len(alive) == 1 and alive[0] is not None else None)
    early = [each for each in held[:-LATE] if each is not None and each.grad_fn is not None]
    if len(early) >= HELD and len(early) == len(held[:-LATE]):
        return LossHistory(losses=tuple(v if t is None else t for v, t in zip(values, held, strict=True)))
    return LossHistory(losses=tuple(values))


def axis_and_view(replica: Replica, lacks: dict[str, str]) -> tuple[int, TokenView | None]:
    """The axis of the samples, and the token view along it."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return batch.tape.play(model, batch)

    batch = replica.batches[0]
    with private_randomness(0), private_model(replica.start) as private:
        axis = sample_axis(private, batch)
        return axis, token_view_or_reason(loss, private, batch, axis, lacks)


def sample_axis(model: nn.Module, batch: RecordedBatch) -> int:
    """The axis along which the samples of a batch lie: 1 for time-first tables of tokens.

    Where tables differ in one size, it is the other one. Otherwise it is the axis along which an edited token moves
    predictions at its own place only: a time sees other times, a sample no other samples.
    """
    tables = [tensor for tensor in batch.values() if tensor.dim() == 2 and is_table(tensor)]
    sizes = [{tensor.shape[axis] for tensor in tables} for axis in (0, 1)]
    if not tables or len(sizes[0]) != len(sizes[1]):
        return int(len(sizes[1]) < len(sizes[0]))
    return int(not moves_itself_only(model, batch, 0) and moves_itself_only(model, batch, 1))


@torch.no_grad()
def moves_itself_only(model: nn.Module, batch: RecordedBatch, axis: int) -> bool:
    """Whether other tokens at the first place along an axis leave what the model says at other places alone."""
    model.eval()
    other = RecordedBatch({name: swapped(tensor, axis) for name, tensor in batch.items()})
    before, after = (predictions(model, each, batch.tape) for each in (batch, other))
    if before is None or after is None or before.dim() <= axis or before.shape != after.shape:
        return False
    rest = slice(1, None)
    return torch.equal(before.movedim(axis, 0)[rest], after.movedim(axis, 0)[rest])


def swapped(tensor: Shaped[Tensor, "..."], axis: int) -> Shaped[Tensor, "..."]:
    """A table of tokens whose first place along an axis holds the tokens of the last one, in reverse order."""
    if tensor.dim() != 2 or not is_table(tensor):
        return tensor
    moved = tensor.clone().movedim(axis, 0)
    moved[0] = moved[-1].flip(0)
    return moved.movedim(0, axis)


def predictions(model: nn.Module, batch: RecordedBatch, tape: Tape) -> Shaped[Tensor, "..."] | None:
    """The first floating-point tensor with axes that the last part of the model gives."""
    results = tape.results(model, batch)
    parts = [result for result, node in zip(results, tape.nodes, strict=True) if isinstance(node.call, str)]
    tensors = (each for _, each in leaves(parts[-1:]) if each.is_floating_point() and each.dim() > 1)
    return next(tensors, None)


def notes_on(
    recording: Recording, replica: Replica, found: Reproduction, starts: Mapping[int, Mapping[str, Tensor]]
) -> Iterator[str]:
    """What was seen of the script, and how well it was played again."""
    if recording.said:
        yield f"the script raised {recording.said}: mend that first; what is said here is about the steps before it"
    yield f"{recording.steps} steps of {recording.name} were seen in {recording.seconds:.1f} seconds"
    if found.exact:
        yield f"its first {len(found.seen)} losses, played again from the start, come out the same to the last digit"
    elif not found.seen:
        yield "its first losses could not be played again from the start: a step of it has losses of several kinds"
    else:
        yield f"its first {len(found.seen)} losses, played again from the start, differ by up to {found.worst:.3g}"
    if is_always_the_same(replica.batches):
        yield "every step was given the same batch: that is a check whether one batch can be learned, or a mistake"
    if replica.heldout:
        yield f"{len(replica.heldout)} batches of its validation were seen"
    if starts:
        seeds = ", ".join(map(str, sorted(starts)))
        yield f"trials start as the script does, with its own seed and with others (seeds {seeds})"
    else:
        yield "trials with other seeds start from the script's own numbers, shuffled within each matrix"
    if replica.left_out:
        yield f"{replica.left_out} backward passes on another kind of loss were left out"
