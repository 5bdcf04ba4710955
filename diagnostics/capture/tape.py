"""A tape: what a script did with tensors between its batch and its loss, to be played again on another model.

A node is one call of a torch function or of a module with parameters. Its tensors are slots: the result of an earlier
node, a tensor of the batch, or a number that the model holds. Everything else in a call is kept as it came.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diagnostics.leaves import Path, changed, parts_of_batch

RESHAPES = (Tensor.view, Tensor.reshape, torch.reshape)


@dataclass(frozen=True)
class Result:
    """A tensor in what an earlier node gave."""

    node: int
    path: Path = ()


@dataclass(frozen=True)
class Given:
    """A tensor of the batch."""

    name: str


@dataclass(frozen=True)
class Held:
    """A parameter, a buffer or a plain tensor that the model holds, by its name there."""

    name: str


Slot = Result | Given | Held


@dataclass(frozen=True)
class Surroundings:
    """What was switched on around a call: gradients, and autocast as (device type, number type) pairs."""

    grad: bool = True
    autocast: tuple[tuple[str, torch.dtype], ...] = ()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The same switched on again; gradients are never switched on where the caller has none."""
        with ExitStack() as stack:
            if not self.grad:
                stack.enter_context(torch.no_grad())
            for device, dtype in self.autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            yield


@dataclass(frozen=True, kw_only=True)
class Node:
    """One call: a torch function, or the part of the model with this name ("" for the whole model)."""

    call: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    around: Surroundings = Surroundings()
    edits: bool = False  # its first argument, in place: that is its result


class RecordedBatch(dict[str, Tensor]):
    """The tensors that one loss of the script was computed from, by name, with the tape that computes it."""

    tape: "Tape"


@dataclass(frozen=True, kw_only=True)
class Tape:
    """Nodes in the order of the script, and which result is the loss."""

    nodes: tuple[Node, ...]
    loss: Result

    def play(
        self,
        model: nn.Module,
        batch: Mapping[str, Shaped[Tensor, "..."]],
        before_part: Callable[[int], None] = lambda index: None,
    ) -> Float[Tensor, ""]:
        """The loss of this model on this batch; the batch's own tensors stay as they are.

        Args:
            before_part: called with the index of every node that calls a part of the model, before it does.
        """
        results = self.results(model, batch, before_part)
        return at(results[self.loss.node], self.loss.path).reshape(())

    def results(
        self,
        model: nn.Module,
        batch: Mapping[str, Shaped[Tensor, "..."]],
        before_part: Callable[[int], None] = lambda index: None,
    ) -> list[Any]:
        """What every node gives; see `play`."""
        own = {name: tensor.clone() for name, tensor in batch.items()} if self._edits else dict(batch)
        if not isinstance(model, Parts) or not self.parts():
            return self.run(model, own, {}, range(len(self.nodes)), before_part)
        inside: dict[int, Any] = {}
        last = max(index for index, node in enumerate(self.nodes) if isinstance(node.call, str))
        inside[last] = model(tape=self, upto=last, given=inside, before_part=before_part, **own)
        kept = {index: inside[index] for index in self.behind_parts if index in inside}
        return self.run(model, own, kept, range(len(self.nodes)), before_part)

    def run(
        self,
        model: nn.Module,
        own: Mapping[str, Shaped[Tensor, "..."]],
        known: Mapping[int, Any],
        indices: Iterable[int],
        before_part: Callable[[int], None],
    ) -> list[Any]:
        """The results of these nodes in order, those that are known taken as they are; None for all others."""
        results: list[Any] = [None] * len(self.nodes)

        def value(path: Path, slot: Slot) -> Any:
            if isinstance(slot, Given):
                return own[slot.name]
            return held(model, slot.name) if isinstance(slot, Held) else at(results[slot.node], slot.path)

        for index in indices:
            node = self.nodes[index]
            if index in known:
                results[index] = known[index]
                continue
            args, kwargs = changed((node.args, dict(node.kwargs)), value, kind=Slot)
            if isinstance(node.call, str):
                before_part(index)
            with self._around(node):
                result = called(model, node, args, kwargs)
            results[index] = args[0] if node.edits else result
        return results

    @cached_property
    def behind_parts(self) -> frozenset[int]:
        """The nodes that depend on what the model holds."""
        found: set[int] = set()
        for index, node in enumerate(self.nodes):
            slots = slots_in(node)
            if isinstance(node.call, str) or any(
                isinstance(s, Held) or getattr(s, "node", None) in found for s in slots
            ):
                found.add(index)
        return frozenset(found)

    def before(self, last: int) -> list[int]:
        """The nodes that a node needs, itself included, in order."""
        needed = {last}
        for index in range(last, -1, -1):
            edits = self.nodes[index].edits and any(s.node in needed for s in results_in(self.nodes[index]))
            if index in needed or edits:
                needed |= {index, *(slot.node for slot in results_in(self.nodes[index]))}
        return sorted(needed)

    @property
    def _edits(self) -> bool:
        return any(node.edits for node in self.nodes)

    @staticmethod
    def _around(node: Node) -> AbstractContextManager[None]:
        return nullcontext() if node.around == Surroundings() else node.around.entered()

    def parts(self) -> tuple[str, ...]:
        """The parts of the model that are called, in order."""
        return tuple(node.call for node in self.nodes if isinstance(node.call, str))


def slots_in(node: Node) -> list[Slot]:
    """Everything that a node is given by its name."""
    found: list[Slot] = []
    changed((node.args, dict(node.kwargs)), lambda path, slot: found.append(slot) or slot, kind=Slot)  # type: ignore[func-returns-value]
    return found


def results_in(node: Node) -> list[Result]:
    """The results that a node is given."""
    return [slot for slot in slots_in(node) if isinstance(slot, Result)]


def called(model: nn.Module, node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a node's call gives; a reshape to written-out sizes fits itself to a batch of other sizes."""
    if isinstance(node.call, str):
        return model.get_submodule(node.call)(*args, **kwargs)
    if node.call in RESHAPES and not kwargs:
        return node.call(args[0], *fitted(args[0].numel(), args[1:]))
    return node.call(*args, **kwargs)


def fitted(numel: int, sizes: Sequence[Any]) -> Sequence[Any]:
    """The sizes of a reshape, the first of which gives way where the number of elements is another one now.

    >>> fitted(24, (12, 4))
    (-1, 4)
    """
    flat = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else tuple(sizes)
    if not all(isinstance(size, int) for size in flat) or -1 in flat or math.prod(flat) == numel:
        return sizes
    for index in range(len(flat)):
        rest = math.prod(flat[:index] + flat[index + 1 :])
        if rest and numel % rest == 0:
            return (*flat[:index], -1, *flat[index + 1 :])
    return sizes


def at(value: Any, path: Path) -> Any:
    """What lies at a path inside a value."""
    for key in path:
        value = parts_of_batch(value)[key]
    return value


def held(model: nn.Module, name: str) -> Any:
    """What a model holds under a dotted name."""
    owner, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(owner), attribute)


class Parts(nn.Module):
    """The modules that a script calls one by one, and parameters that lie in no module, as one model."""

    def __init__(self, modules: Mapping[str, nn.Module], loose: Sequence[nn.Parameter | Tensor] = ()) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        for index, tensor in enumerate(loose):
            setattr(self, f"tensor_{index}", tensor)

    def forward(
        self, *, tape: Tape, upto: int, given: dict[int, Any], before_part: Callable[[int], None], **batch: Any
    ) -> Any:
        """What the last module gives, and into ``given`` what every call up to it gave: one call, as of one model."""
        needed = tape.before(upto)
        results = tape.run(self, batch, {}, needed, before_part)
        given.update({index: results[index] for index in needed})
        return results[upto]
