"""Records the calls of torch functions and modules around a script's loss, as far back as its data.

Torch passes every call of its functions through a mode while one is active; nothing changes in what they compute. The
inside of a module that has parameters is not looked at: its call is one node. What was recorded is kept until the next
optimizer step; then only the tape behind each loss and the tensors that it starts from stay.
"""

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from diagnostics.capture.tape import Given, Result, Surroundings, at
from diagnostics.leaves import Path, changed, leaves
from diagnostics.model_call import argument_names
from diagnostics.watch import LOSSES, REGRESSIONS

PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, slice, torch.Size, type(...)})
SCRIPT_NODES = 20_000  # since the last step; a script that computes more between two steps is not being trained then
IDLE_BYTES = 2**28  # the same for a validation: its results are let go by the script, and so by us
GROWTH = 4  # a tensor that a batch is cut out of: at most so many times as large, else the cut is the batch
SUMMED = 1_000_000  # numbers that a sum, a mean or a count is made of: of more than that it is a fact of the data
CHOOSING = frozenset(["__getitem__", "narrow", "select", "split", "chunk", "unbind", "tensor_split", "unfold"])
DRAWN = """
rand randn randint randperm rand_like randn_like randint_like bernoulli bernoulli_ multinomial normal normal_ uniform_
random_ dropout dropout_ exponential_ poisson
"""
COLLECTED = """
stack pad_sequence tensor as_tensor from_numpy frombuffer set_ index_select gather take take_along_dim vstack hstack
embedding masked_select empty empty_like empty_strided new_empty
"""
FETCHING = frozenset(DRAWN.split() + COLLECTED.split())
"""Functions that fetch a batch: what they give is the batch, and what they take is the data behind it."""


@dataclass(frozen=True)
class Loose:
    """A tensor that nobody was seen to make."""

    tensor: Tensor


@dataclass(frozen=True)
class Part:
    """A module that a script called, itself."""

    module: nn.Module


@dataclass(kw_only=True)
class RawNode:
    """One call as it was made: with modules and tensors themselves, and with what it gave."""

    call: Callable[..., Any] | Part
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    around: Surroundings
    edits: bool = False
    training: bool = True  # the mode of the part
    randomness: "Randomness | None" = None


@dataclass(frozen=True)
class Randomness:
    """Every random state that a call may draw from, before it."""

    torch_state: Tensor
    python_state: Any
    numpy_state: Any
    cuda_states: tuple[Tensor, ...] = ()

    @classmethod
    def now(cls) -> "Randomness":
        """The present states."""
        numpy = sys.modules.get("numpy")
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        numpy_state = None if numpy is None else numpy.random.get_state()
        return cls(torch.get_rng_state(), random.getstate(), numpy_state, tuple(cuda))

    def restore(self) -> None:
        """Make these the present states."""
        torch.set_rng_state(self.torch_state)
        random.setstate(self.python_state)
        if self.numpy_state is not None:
            sys.modules["numpy"].random.set_state(self.numpy_state)
        if self.cuda_states:
            torch.cuda.set_rng_state_all(list(self.cuda_states))


@dataclass(frozen=True, kw_only=True)
class Forward:
    """One loss that the script called backward on: the calls behind it, and the tensors that they start from.

    Args:
        nodes: with modules (`Part`) and loose parameters themselves; results refer to these nodes.
        loss: which result backward was called on.
        undivided: which result that was before the script divided it by ``divisor`` (as gradient accumulation does).
        value: ``loss`` as the script computed it.
        batch: the tensors that the calls start from, by name, as they were when they were used.
        sources: for each of them the identity of a tensor that nobody was seen to make; 0 where its making was seen.
    """

    nodes: tuple[RawNode, ...]
    loss: Result
    undivided: Result
    divisor: float
    value: Float[Tensor, ""]
    batch: dict[str, Tensor]
    sources: dict[str, int]

    @property
    def is_trained(self) -> bool:
        """Whether a module in training mode took part."""
        return any(node.training for node in self.nodes if isinstance(node.call, Part))


HIDDEN = (
    "a tensor with a gradient came from something that torch does not show (autograd.Function?), "
    "or from before the last optimizer step"
)


class UnplayableError(Exception):
    """What the script did cannot be played again; says why."""


class Recorder(TorchFunctionMode):
    """The mode. ``on`` says whether calls are recorded; ``fine`` whether random states are kept too.

    Args:
        on_number: called with a tensor that a number is read from while gradients are off.
    """

    def __init__(self, on_number: Callable[[Tensor], None] = lambda tensor: None) -> None:
        super().__init__()
        self.on_number = on_number
        self.on = True
        self.fine = True
        self.left = False  # while at rest
        self.held: set[int] = set()  # identities of what modules were seen to hold
        self.forget()

    def forget(self) -> None:
        """Drop what was recorded since the last step."""
        self.nodes: list[RawNode] = []
        self.made: dict[int, Result] = {}
        self.edited: defaultdict[int, list[int]] = defaultdict(list)  # storage -> the nodes that wrote to it
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # loose tensors before they were written to
        self.idle_bytes = 0  # of results that no gradient needs
        self.kept: list[Tensor] = []  # as long as a tensor lives, no other one has its identity

    @no_type_check  # reached by every torch function, and the shape checks of the test run call some themselves
    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Torch's own entry: let the call happen, and note it."""
        kwargs = kwargs or {}
        if not self.on:
            return func(*args, **kwargs)
        edits = bool(args) and isinstance(args[0], Tensor) and writes(func)
        if edits:
            self._keep(args[0])
        slots = self._slots(args), self._named_slots(kwargs)
        result = func(*args, **kwargs)
        target = args[0] if edits else result
        if isinstance(target, Tensor) or (type(target) in (tuple, list) and any(isinstance(t, Tensor) for t in target)):
            self._note(RawNode(call=func, args=slots[0], kwargs=slots[1], result=target, around=around(), edits=edits))
        elif (
            func in NUMBERS and not torch.is_grad_enabled() and args[0].is_floating_point() and id(args[0]) in self.made
        ):
            self.on_number(args[0])
        return result

    def close(self) -> None:
        """Record nothing more; leave torch, unless a call that is still going on does that."""
        self.on = False
        if _get_current_function_mode() is self:
            self.__exit__(None, None, None)

    def rest(self) -> None:
        """Record nothing until `resume`; torch does not even call this where no other mode is active beside it."""
        self.on = False
        if torch._C._len_torch_function_stack() == 1 and _get_current_function_mode() is self:
            self.__exit__(None, None, None)
            self.left = True

    def resume(self) -> bool:
        """Record again; False where that has to wait until the script has left a mode of its own."""
        if self.left and torch._C._len_torch_function_stack():
            return False
        if self.left:
            self.__enter__()
        self.left, self.on = False, True
        return True

    @contextmanager
    def switched(self, on: bool) -> Iterator[None]:
        """Calls are recorded inside, or are not."""
        was, self.on = self.on, on
        try:
            yield
        finally:
            self.on = was

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is recorded inside; where no other mode was entered after this one, torch does not even call it."""
        top = _get_current_function_mode() is self
        if top:
            self.__exit__(None, None, None)
        try:
            with self.switched(False):
                yield
        finally:
            if top:
                self.__enter__()

    @no_type_check
    def part(self, module: nn.Module, args: tuple, kwargs: dict, run: Callable[..., Any]) -> Any:
        """One call of a module with parameters, as one node."""
        slots = self._slots(args), self._named_slots(kwargs)
        randomness, outside = Randomness.now() if self.fine else None, around()
        with self.paused():
            result = run(module, *args, **kwargs)
        self._note(
            RawNode(
                call=Part(module),
                args=slots[0],
                kwargs=slots[1],
                result=result,
                around=outside,
                training=module.training,
                randomness=randomness,
            )
        )
        return result

    @no_type_check
    def function(self, run: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """One call of a function that torch does not show, as one node."""
        slots = self._slots(args), self._named_slots(kwargs)
        with self.paused():
            result = run(*args, **kwargs)
        self._note(RawNode(call=run, args=slots[0], kwargs=slots[1], result=result, around=around()))
        return result

    def _slots(self, args: Iterable[Any]) -> tuple[Any, ...]:
        if len(self.nodes) >= SCRIPT_NODES or self.idle_bytes > IDLE_BYTES:
            self.forget()
        return tuple(self._slot(each) for each in args)

    def _named_slots(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {key: self._slot(each) for key, each in kwargs.items()}

    @no_type_check
    def _slot(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._made(value)
        if type(value) in PLAIN:
            return value
        return changed(value, lambda path, tensor: self._made(tensor))

    @no_type_check
    def _made(self, tensor: Tensor) -> Result | Loose:
        """Where a tensor comes from; a parameter comes from nowhere, however its first numbers were drawn."""
        own = id(tensor) in self.held or is_parameter(tensor)
        return Loose(tensor) if own else self.made.get(id(tensor)) or Loose(tensor)

    def _note(self, node: RawNode) -> None:
        index = len(self.nodes)
        self.nodes.append(node)
        for path, tensor in leaves(node.result):
            self.made[id(tensor)] = Result(index, path)
            self.idle_bytes += 0 if tensor.requires_grad else tensor.numel() * tensor.element_size()
            if node.edits:
                self.edited[storage(tensor)].append(index)

    def _keep(self, tensor: Any) -> None:
        """A loose tensor's value before it is written to."""
        if isinstance(tensor, Tensor) and id(tensor) not in self.before and isinstance(self._made(tensor), Loose):
            self.before[id(tensor)] = (tensor, tensor.detach().clone())

    def alias(self, tensor: Shaped[Tensor, "..."], original: Shaped[Tensor, "..."]) -> None:
        """From now on the one stands for the other: what a gradient scaler gave for what it was given."""
        if id(original) in self.made:
            self.made[id(tensor)] = self.made[id(original)]
            self.kept += [tensor, original]

    def forward(self, root: Shaped[Tensor, "..."]) -> Forward:
        """The calls behind a loss.

        Raises:
            UnplayableError: they were not all seen.
        """
        return Slice(self, root).forward()


def is_parameter(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether gradients are collected in this tensor."""
    return tensor.requires_grad and tensor.is_leaf


def writes(func: Callable[..., Any]) -> bool:
    """Whether a torch function writes to its first argument.

    >>> writes(Tensor.add_), writes(Tensor.__setitem__), writes(torch.add)
    (True, True, False)
    """
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name in IN_PLACE
    return name.endswith("_") and not name.startswith("_")


NUMBERS = frozenset((Tensor.item, Tensor.__float__))
IN_PLACE = frozenset(
    f"__{name}__" for name in ("setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "iand", "ior", "ixor")
)


def around() -> Surroundings:
    """What is switched on now."""
    if torch.is_grad_enabled() and not torch._C._is_any_autocast_enabled():
        return USUAL
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    on = tuple((kind, torch.get_autocast_dtype(kind)) for kind in kinds if torch.is_autocast_enabled(kind))
    return Surroundings(torch.is_grad_enabled(), on)


USUAL = Surroundings()


def storage(tensor: Tensor) -> int:
    """Where a tensor's numbers lie."""
    return tensor.untyped_storage().data_ptr()


class Slice:
    """What of a recording a loss needs, and where its batch begins."""

    def __init__(self, recorder: Recorder, root: Shaped[Tensor, "..."]) -> None:
        self.nodes, self.edited, self.before = recorder.nodes, recorder.edited, recorder.before
        self.root, self.start = root, recorder.made.get(id(root))
        self.trained: dict[int, bool] = {}
        self.order: set[int] = set()
        self.batch: dict[str, Tensor] = {}
        self.sources: dict[str, int] = {}
        self.names: dict[Any, str] = {}  # of a cut result or a loose tensor -> its name in the batch

    def forward(self) -> Forward:
        """See `Recorder.forward`."""
        if self.start is None:
            raise UnplayableError("backward was called on a tensor whose making was not seen")
        if not self._is_trained(self.start.node):
            raise UnplayableError("backward was called on a tensor that depends on no parameter, as far as was seen")
        undivided, divisor = self._undivided(self.start)
        self._visit(self.start, "loss")
        order = sorted(self.order)
        self.place = {index: position for position, index in enumerate(order)}
        return Forward(
            nodes=tuple(self._renumbered(self.nodes[index]) for index in order),
            loss=self._moved(self.start),
            undivided=self._moved(undivided),
            divisor=divisor,
            value=at(self.nodes[self.start.node].result, self.start.path).detach(),
            batch=self.batch,
            sources=self.sources,
        )

    def _undivided(self, start: Result) -> tuple[Result, float]:
        """The loss before it was divided by a plain number, and that number."""
        divisor, node = 1.0, self.nodes[start.node]
        while getattr(node.call, "__name__", "") in SCALINGS and len(node.args) == 2:
            given, number = node.args
            if not isinstance(given, Result) or type(number) not in (int, float) or number == 0:
                break
            divisor *= number if SCALINGS[node.call.__name__] else 1 / number  # type: ignore[union-attr]
            start, node = given, self.nodes[given.node]
        return start, divisor

    def _is_trained(self, index: int) -> bool:
        """Whether a node's result depends on what a model holds."""
        if index not in self.trained:
            node = self.nodes[index]
            self.trained[index] = isinstance(node.call, Part)  # also ends the recursion where a node edits its own
            self.trained[index] |= not carries_over(node) and any(self._depends(slot) for slot in slots_of(node))
        return self.trained[index]

    def _depends(self, slot: Result | Loose) -> bool:
        if isinstance(slot, Result):
            return self._is_trained(slot.node)
        if is_hidden(slot.tensor):
            raise UnplayableError(HIDDEN)
        return slot.tensor.requires_grad

    def _visit(self, slot: Result | Loose, name: str) -> None:
        """Take what makes this tensor, back to where the batch begins."""
        if isinstance(slot, Loose):
            if not slot.tensor.requires_grad:
                self._begin(slot, name, slot.tensor, id(slot.tensor))
            return
        if slot.node in self.order:
            return
        node = self.nodes[slot.node]
        if not node.around.grad and not node.edits and any(t.requires_grad for _, t in leaves(node.result)):
            raise UnplayableError(HIDDEN)  # torch gave the gradient to it afterwards
        if not self._is_trained(slot.node) and not self._stays(node, slot.path):
            self._begin(slot, name, at(node.result, slot.path), 0)
            return
        self.order.add(slot.node)
        for each, said in named_slots(node, name):
            self._visit(each, said)
        for _, tensor in leaves(node.result):
            for index in self.edited.get(storage(tensor), ()):
                if slot.node < index <= self.start.node:  # type: ignore[union-attr]
                    self._visit(Result(index), name)

    def _begin(self, slot: Result | Loose, name: str, tensor: Shaped[Tensor, "..."], source: int) -> None:
        """The batch begins at this tensor."""
        key = (slot.node, slot.path) if isinstance(slot, Result) else source
        if key in self.names:
            return
        said = free_name(name, self.batch)
        self.names[key] = said
        self.batch[said] = self.before.get(id(tensor), (tensor, tensor.detach().clone()))[1]
        self.sources[said] = source

    def _stays(self, node: RawNode, path: Path) -> bool:
        """Whether a call that has nothing to do with the model is part of the tape, and not of fetching a batch."""
        called, slots = getattr(node.call, "__name__", ""), list(slots_of(node))
        if called in FETCHING or "out" in node.kwargs or len(slots) > 3 or carries_over(node):
            return False
        if turns(node) and any(is_table(tensor) for _, tensor in leaves(node.result)):
            return False
        if len(slots) > 1 and (node.edits or called == "__getitem__"):  # filled from, or chosen by, other tensors
            return False
        chosen = at(node.result, path) if called in CHOOSING else node.result  # one piece of all that a split gives
        given = sum(tensor.numel() for _, tensor in leaves(chosen))
        taken = max((self._tensor(slot).numel() for slot in slots), default=0)
        return taken <= GROWTH * given or (called not in CHOOSING and taken <= SUMMED)

    def _tensor(self, slot: Result | Loose) -> Shaped[Tensor, "..."]:
        return slot.tensor if isinstance(slot, Loose) else at(self.nodes[slot.node].result, slot.path)

    def _renumbered(self, node: RawNode) -> RawNode:
        """The node with its slots among the nodes that are kept, and without what it gave."""
        args, kwargs = changed((node.args, node.kwargs), lambda path, slot: self._moved(slot), kind=Result | Loose)
        return replace(node, args=args, kwargs=kwargs, result=None)

    def _moved(self, slot: Any) -> Any:
        if isinstance(slot, Loose):
            return Given(self.names[id(slot.tensor)]) if id(slot.tensor) in self.names else slot
        if (slot.node, slot.path) in self.names:
            return Given(self.names[slot.node, slot.path])
        return Result(self.place[slot.node], slot.path)


def free_name(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it where it is taken.

    >>> free_name("src", {"src", "src 2"})
    'src 3'
    """
    names = chain([name], (f"{name} {number}" for number in count(2)))
    return next(each for each in names if each not in taken)


SCALINGS = {"div": True, "__truediv__": True, "true_divide": True, "mul": False, "__mul__": False, "__rmul__": False}
"""Functions that a loss is divided with (True) or multiplied by a part of one."""


def turns(node: RawNode) -> bool:
    """Whether a call changes the order of axes: a batch is what lies as the model takes it, times or samples first."""
    return getattr(node.call, "__name__", "") in TURNING or node.call in TURNED


TURNED = tuple(vars(Tensor.__base__)[name].__get__ for name in ("T", "mT"))  # as attributes
DATA_OF = vars(Tensor.__base__)["data"].__get__
TURNING = frozenset(["t", "transpose", "permute", "movedim", "moveaxis", "swapaxes", "swapdims"])


def carries_over(node: RawNode) -> bool:
    """Whether a call takes numbers out of a graph that was not seen: a state from before the last optimizer step."""
    detaches = getattr(node.call, "__name__", "") == "detach" or node.call == DATA_OF
    return detaches and all(isinstance(slot, Loose) and is_hidden(slot.tensor) for slot in slots_of(node))


def is_hidden(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether a tensor that nobody was seen to make has a gradient that leads on."""
    return tensor.requires_grad and not tensor.is_leaf


def is_table(tensor: Shaped[Tensor, "..."]) -> bool:
    """Whether this holds whole numbers."""
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def slots_of(node: RawNode) -> Iterator[Result | Loose]:
    """The tensors that a node was given."""
    return (slot for slot, _ in named_slots(node, ""))


def named_slots(node: RawNode, name: str) -> list[tuple[Result | Loose, str]]:
    """The tensors that a node was given, each with a name: that of the argument, or of the result."""
    found: list[tuple[Result | Loose, str]] = []
    part = isinstance(node.call, Part)
    named = argument_names(node.call.module) if isinstance(node.call, Part) else lambda index: name

    def note(path: tuple[Any, ...], slot: Result | Loose) -> Result | Loose:
        said = path[1] if path[0] == 1 else named(path[1])
        targets = node.call in TAKING_TARGETS and path[:2] == (0, 1)
        found.append((slot, "targets" if targets else str(said) if part else name))
        return slot

    changed((node.args, node.kwargs), note, kind=Result | Loose)
    return found


TAKING_TARGETS = frozenset((*LOSSES, *REGRESSIONS))
