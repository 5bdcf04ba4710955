"""A recording as a model and tapes: every module and number that the script used, by its name in one model."""

import gc
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from diagnostics.capture.recorder import Forward, Loose, Part, RawNode, free_name, is_table, slots_of
from diagnostics.capture.recording import Backward, Event, Pass, Reading, Recording, Window
from diagnostics.capture.tape import Given, Held, Node, Parts, RecordedBatch, Result, Tape
from diagnostics.copies import model_copy
from diagnostics.leaves import changed


@dataclass(frozen=True, kw_only=True)
class Played:
    """One backward pass of the script, to be played again.

    Args:
        batch: with the tape of the loss as the script reports it.
        tape: of the loss that backward was called on, which may be a part of that.
        forward: what it was made of.
        value: what the script got for the latter.
    """

    batch: RecordedBatch
    tape: Tape
    forward: Forward
    value: float


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A recording by names.

    Args:
        model: the script's own, as it stands.
        start: a copy of it as it was before the first step.
        windows: the steps of the training loop.
        played: each of their backward passes that can be played, by the identity of its event.
        main: those of them on the kind of loss that most compute.
        left_out: how many backward passes compute another kind of loss than most.
        heldout: batches of the script's validation.
    """

    model: nn.Module
    start: nn.Module
    windows: tuple[Window, ...]
    played: dict[int, Played]
    main: frozenset[int]
    left_out: int = 0
    heldout: tuple[RecordedBatch, ...] = ()

    @property
    def batches(self) -> tuple[RecordedBatch, ...]:
        """Every batch of the main kind of loss, in order."""
        return tuple(each.batch for event, each in self.played.items() if event in self.main)

    @property
    def is_trained_in_training_mode(self) -> bool:
        """Whether most of the training passes call the model in training mode."""
        modes = [
            node.training for each in self.played.values() for node in each.forward.nodes if isinstance(node.call, Part)
        ]
        return sum(modes) * 2 >= len(modes)

    @property
    def is_normalised(self) -> bool:
        """Whether losses whose gradients make one step together are divided by their number."""
        window = self.windows[min(1, len(self.windows) - 1)]
        divisors = [self.played[id(event)].forward.divisor for event in window.backwards if id(event) in self.played]
        return len(divisors) < 2 or all(math.isclose(each, len(divisors), rel_tol=1e-6) for each in divisors)


def replica_of(recording: Recording) -> Replica:
    """The recording by names.

    Raises:
        ValueError: nothing in it can be played again; says why.
    """
    windows = recording.windows
    events = [(window, event.forward, event) for window in windows for event in window.backwards if event.forward]
    if not events:
        raise ValueError(why_nothing(recording))
    kind, _ = Counter(kind_of(forward) for _, forward, _ in events).most_common(1)[0]
    kept = [(window, forward, event) for window, forward, event in events if kind_of(forward) == kind]
    forwards = [forward for _, forward, _ in kept]
    model = model_of(forwards)
    names = Names(model, constants(forwards))
    return Replica(
        model=model,
        start=as_before(model, recording),
        windows=windows,
        played={
            id(event): played_of(forward, float(event.value), len(window.backwards), names)
            for window, forward, event in events
            if names.cover(forward)
        },
        main=frozenset(id(event) for _, _, event in kept),
        left_out=len(events) - len(kept),
        heldout=tuple(
            names.batch(forward, forward.undivided) for forward in validations(recording.events, forwards[0])
        ),
    )


class Names:
    """The names of what a model holds, and the tensors that are the same in every loss."""

    def __init__(self, model: nn.Module, constant: set[int]) -> None:
        self.tensors, self.constant = tensor_names(model), constant
        self.modules = {id(module): name for name, module in model.named_modules()}

    def cover(self, forward: Forward) -> bool:
        """Whether a loss uses nothing but modules and tensors that have a name."""
        slots = [slot for node in forward.nodes for slot in slots_of(node)]
        return all(id(slot.tensor) in self.tensors for slot in slots if isinstance(slot, Loose)) and all(
            id(node.call.module) in self.modules for node in forward.nodes if isinstance(node.call, Part)
        )

    def fixed(self, forward: Forward) -> dict[str, Any]:
        """What of a loss's tensors is no batch: by name, where the model holds it, or itself."""
        found: dict[str, Any] = {}
        for name, source in forward.sources.items():
            if source in self.tensors:
                found[name] = Held(self.tensors[source])
            elif source in self.constant:
                found[name] = forward.batch[name]
        return found

    def tape(self, forward: Forward, loss: Result) -> Tape:
        """The calls behind a loss by names."""
        fixed = self.fixed(forward)
        return Tape(nodes=tuple(self._node(node, fixed) for node in forward.nodes), loss=loss)

    def batch(self, forward: Forward, loss: Result) -> RecordedBatch:
        """What a loss was computed from, with its tape."""
        fixed = self.fixed(forward)
        batch = RecordedBatch({name: tensor for name, tensor in forward.batch.items() if name not in fixed})
        batch.tape = self.tape(forward, loss)
        return batch

    def _node(self, node: RawNode, fixed: dict[str, Any]) -> Node:
        def named(path: Any, slot: Result | Given | Loose) -> Any:
            if isinstance(slot, Loose):
                return Held(self.tensors[id(slot.tensor)])
            return fixed.get(slot.name, slot) if isinstance(slot, Given) else slot

        args, kwargs = changed((node.args, node.kwargs), named, kind=Result | Given | Loose)
        call = self.modules[id(node.call.module)] if isinstance(node.call, Part) else node.call
        return Node(call=call, args=args, kwargs=kwargs, around=node.around, edits=node.edits)


def validations(events: Sequence[Event], training: Forward) -> list[Forward]:
    """The losses of the script's validation: of the same kind, computed the same way, from another data set.

    What a script computes on its training data, or fetches without a data loader, is none: nobody can tell it apart.
    """
    found: list[tuple[int, Forward]] = []
    trained_on: set[int] = set()
    data = 0
    for event in events:
        if isinstance(event, Pass):
            data = event.data
        elif isinstance(event, Backward):
            trained_on.add(data)
        elif isinstance(event, Reading) and data and alike(event.forward, training):
            found.append((data, event.forward))
    return [forward for source, forward in found if source not in trained_on]


def alike(one: Forward, other: Forward) -> bool:
    """Whether two losses call the same modules, and come out of the same call in the end."""
    ends = [forward.nodes[forward.undivided.node].call for forward in (one, other)]
    return kind_of(one) == kind_of(other) and ends[0] == ends[1]


def why_nothing(recording: Recording) -> str:
    """Why no backward pass can be played."""
    backwards = [event for event in recording.events if isinstance(event, Backward)]
    if not recording.windows:
        seen = f"{len(backwards)} backward passes were seen, but no optimizer ever took a step"
        return f"{recording.name} never trains: " + (seen if backwards else "no loss.backward() was seen")
    reasons = [event.reason for event in backwards if event.reason]
    reason = reasons[0] if reasons else "its optimizer steps without any loss.backward() (torch.autograd.grad?)"
    return f"the losses of {recording.name} cannot be played again: {reason}"


def kind_of(forward: Forward) -> tuple[int, ...]:
    """Which modules a loss calls, in order: what tells one kind of loss from another."""
    return tuple(id(node.call.module) for node in forward.nodes if isinstance(node.call, Part))


def model_of(forwards: Sequence[Forward]) -> nn.Module:
    """The one module in which everything lies that these losses use; made up of them where the script has none."""
    parts = unique(node.call.module for f in forwards for node in f.nodes if isinstance(node.call, Part))
    loose = unique(
        slot.tensor for f in forwards for node in f.nodes for slot in slots_of(node) if isinstance(slot, Loose)
    )
    if len(parts) == 1 and set(map(id, loose)) <= set(tensor_names(parts[0])):
        return parts[0]
    whole = [m for m in living_modules() if contains(m, parts, loose)]
    return min(whole, key=lambda m: sum(1 for _ in m.modules())) if whole else Parts(called_names(parts), loose)


def unique(values: Iterable[Any]) -> list[Any]:
    """Each object once, in order."""
    return list({id(value): value for value in values}.values())


def living_modules() -> Iterator[nn.Module]:
    """Every module that there is."""
    found = (each for each in gc.get_objects() if issubclass(type(each), nn.Module))  # isinstance may run their code
    return (each for each in found if not isinstance(each, Parts))


def contains(module: nn.Module, parts: Sequence[nn.Module], loose: Sequence[Tensor]) -> bool:
    """Whether all of these lie in a module."""
    try:
        within = {id(each) for each in module.modules()}
        return all(id(part) in within for part in parts) and set(map(id, loose)) <= set(tensor_names(module))
    except Exception:  # a module that was never finished
        return False


def called_names(parts: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Modules by the names of their classes."""
    named: dict[str, nn.Module] = {}
    for part in parts:
        named[free_name(type(part).__name__.lower(), named)] = part
    return named


def tensor_names(model: nn.Module) -> dict[int, str]:
    """Parameters, buffers and plain tensors of a model by identity."""
    named: dict[int, str] = {}
    for prefix, module in model.named_modules():
        own = [*module._parameters.items(), *module._buffers.items(), *vars(module).items()]
        for name, tensor in own:
            if isinstance(tensor, Tensor):
                named.setdefault(id(tensor), f"{prefix}.{name}".lstrip("."))
    return named


def constants(forwards: Sequence[Forward]) -> set[int]:
    """Identities of tensors that are the same object in every loss, where the batch as a whole is not.

    Tables of whole numbers are never among them: a script that repeats one batch repeats its tokens.
    """
    counts = Counter(source for f in forwards for source in set(f.sources.values()) if source)
    always = {source for source, count in counts.items() if count == len(forwards)}
    if len(forwards) < 2 or all(set(f.sources.values()) <= always for f in forwards):
        return set()
    first = forwards[0]
    tables = {source for name, source in first.sources.items() if is_table(first.batch[name])}
    return always - tables


def played_of(forward: Forward, value: float, backwards: int, names: Names) -> Played:
    """A backward pass by names; the loss as reported is not divided by the number of passes that make one step."""
    divided = backwards > 1 and abs(forward.divisor - backwards) < 1e-6
    batch = names.batch(forward, forward.undivided if divided else forward.loss)
    return Played(batch=batch, tape=names.tape(forward, forward.loss), forward=forward, value=value)


@torch.no_grad()
def as_before(model: nn.Module, recording: Recording) -> nn.Module:
    """A copy of the model with the numbers that it held before the first step."""
    names, twin = tensor_names(model), model_copy(model)
    own = dict(named_tensors(twin))
    for identity, (_, value) in recording.initial.items():
        if identity in names and names[identity] in own and own[names[identity]].shape == value.shape:
            own[names[identity]].copy_(value)
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Shaped[Tensor, "..."]]]:
    """Parameters, buffers and plain tensors by name."""
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items(), *vars(module).items()):
            if isinstance(tensor, Tensor):
                yield f"{prefix}.{name}".lstrip("."), tensor
