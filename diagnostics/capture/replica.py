"""A recording as a model and tapes: every module and number that the script used, by its name in one model."""

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from diagnostics.capture.recorder import Forward, Loose, Part, RawNode, free_name, slots_of
from diagnostics.capture.recording import Backward, Recording, Window
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
        left_out: how many backward passes compute another kind of loss than most.
    """

    model: nn.Module
    start: nn.Module
    windows: tuple[Window, ...]
    played: dict[int, Played]
    left_out: int = 0

    @property
    def batches(self) -> tuple[RecordedBatch, ...]:
        """Every batch, in order."""
        return tuple(each.batch for each in self.played.values())


def replica_of(recording: Recording) -> Replica:
    """The recording by names.

    Raises:
        ValueError: nothing in it can be played again; says why.
    """
    windows = recording.windows
    events = [(window, event) for window in windows for event in window.backwards if event.forward is not None]
    if not events:
        raise ValueError(why_nothing(recording))
    kind, _ = Counter(kind_of(event.forward) for _, event in events if event.forward).most_common(1)[0]
    kept = [(window, event) for window, event in events if event.forward and kind_of(event.forward) == kind]
    model = model_of([event.forward for _, event in kept if event.forward])
    names, modules = tensor_names(model), {id(module): name for name, module in model.named_modules()}
    constant = constants([event.forward for _, event in kept if event.forward])
    played = {id(event): played_of(event, len(window.backwards), names, modules, constant) for window, event in kept}
    return Replica(
        model=model,
        start=as_before(model, recording),
        windows=windows,
        played=played,
        left_out=len(events) - len(kept),
    )


def why_nothing(recording: Recording) -> str:
    """Why no backward pass can be played."""
    backwards = [event for event in recording.events if isinstance(event, Backward)]
    if not recording.windows:
        seen = f"{len(backwards)} backward passes were seen, but no optimizer ever took a step"
        return f"{recording.name} never trains: " + (seen if backwards else "no loss.backward() was seen")
    reasons = [event.reason for event in backwards if event.reason]
    return f"the losses of {recording.name} cannot be played again: {reasons[0] if reasons else 'no loss was seen'}"


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
    return (each for each in gc.get_objects() if isinstance(each, nn.Module) and not isinstance(each, Parts))


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


def is_table(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether this holds whole numbers."""
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def played_of(
    event: Backward, backwards: int, names: dict[int, str], modules: dict[int, str], constant: set[int]
) -> Played:
    """A backward pass by names; the loss as reported is not divided by the number of passes that make one step."""
    forward = event.forward
    assert forward is not None
    fixed: dict[str, Any] = {}
    for name, source in forward.sources.items():
        if source in names:
            fixed[name] = Held(names[source])
        elif source in constant:
            fixed[name] = forward.batch[name]
    nodes = tuple(named_node(node, names, modules, fixed) for node in forward.nodes)
    divided = backwards > 1 and abs(forward.divisor - backwards) < 1e-6
    batch = RecordedBatch({name: tensor for name, tensor in forward.batch.items() if name not in fixed})
    batch.tape = Tape(nodes=nodes, loss=forward.undivided if divided else forward.loss)
    return Played(batch=batch, tape=Tape(nodes=nodes, loss=forward.loss), forward=forward, value=float(event.value))


def named_node(node: RawNode, names: dict[int, str], modules: dict[int, str], fixed: dict[str, Any]) -> Node:
    """A node whose modules and numbers are names."""

    def named(path: Any, slot: Result | Given | Loose) -> Any:
        if isinstance(slot, Loose):
            return Held(names[id(slot.tensor)])
        return fixed.get(slot.name, slot) if isinstance(slot, Given) else slot

    args, kwargs = changed((node.args, node.kwargs), named, kind=Result | Given | Loose)
    call = modules[id(node.call.module)] if isinstance(node.call, Part) else node.call
    return Node(call=call, args=args, kwargs=kwargs, around=node.around, edits=node.edits)


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
