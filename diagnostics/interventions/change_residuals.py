"""Change what the branches of a model are added to, or add what was left out."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt, surrounded
from diagnostics.probes.residual_paths import is_detach
from diagnostics.probes.stream_scale import is_layer
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls

ADDS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_)
BRANCH_ENDS = (F.linear, F.dropout, torch.addmm, torch.matmul, Tensor.matmul, Tensor.__matmul__)
AXES = 3  # of a stream: batch, time, features


class ChangedResiduals(TorchCalls):
    """While active, stream + branch is change(stream, branch). ``changed`` counts the sums.

    A branch is the later of the two to come out of a matrix or a dropout; a sum of which neither does (token vectors
    and positions) is left alone.
    """

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change
        self.changed = 0
        self._ends: dict[int, tuple[int, Tensor]] = {}

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace a sum of a stream and a branch."""
        if func in ADDS and len(args) == 2 and (parts := self.parts(*args)) is not None:
            self.changed += 1
            return self.change(*parts)
        result = func(*args, **kwargs)
        if func in BRANCH_ENDS:
            self._ends[id(result)] = (len(self._ends), result)
        return result

    def parts(self, first: Any, second: Any) -> tuple[Tensor, Tensor] | None:
        """(stream, branch) of a sum; None where it is another sum."""
        if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or first.shape != second.shape:
            return None
        if first.dim() != AXES or not (first.is_floating_point() and second.is_floating_point()):
            return None
        ages = [self._ends[id(each)][0] if id(each) in self._ends else -1 for each in (first, second)]
        if ages[0] == ages[1]:
            return None
        return (second, first) if ages[0] > ages[1] else (first, second)


def change_residuals(subject: Subject, change: Callable[[Tensor, Tensor], Tensor]) -> Subject:
    """The subject with change(stream, branch) for each of its sums of the two.

    Raises:
        ValueError: it has none.
    """
    with open_bench(subject, 0) as bench, torch.no_grad(), ChangedResiduals(change) as mode:
        bench.loss(bench.model.train())
    if not mode.changed:
        raise ValueError(f"{subject.name} adds no branch of three axes to a stream; there is no residual to change")
    return surrounded(subject, lambda model, batch: ChangedResiduals(change))


def first_tensor(value: Any) -> Tensor | None:
    """The value itself, or the first of a tuple."""
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, Tensor) else None


def add_residuals(subject: Subject) -> Subject:
    """The subject whose layers (compound members of lists of modules) give their input plus their output.

    Raises:
        ValueError: it has no such layer that gives what has its input's shape.
    """
    seen: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            given, made = first_tensor(args), first_tensor(result)
            if given is not None and made is not None and given.shape == made.shape and given.is_floating_point():
                seen.add(name)

        return hook

    with open_bench(subject, 0) as bench:
        for name, module in bench.model.named_modules():
            if is_layer(name, module):
                module.register_forward_hook(note(name))
        bench.loss()
    if not seen:
        raise ValueError(f"no layer of {subject.name} gives what has the shape of its input; nothing to add it to")

    def add(module: nn.Module, args: tuple[Any, ...], result: Any) -> Any:
        given, made = first_tensor(args), first_tensor(result)
        assert given is not None
        assert made is not None
        total = with_input(given, made)
        return (total, *result[1:]) if isinstance(result, tuple) else total

    def hooked(model: nn.Module) -> None:
        outer = [name for name in seen if not any(name.startswith(other + ".") for other in seen)]
        for name in outer:
            model.get_submodule(name).register_forward_hook(add)

    return rebuilt(subject, hooked)


def with_input(given: Float[Tensor, "*shape"], made: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Their sum, as a difference that no mode on sums takes for one of the model's own."""
    return torch.sub(made, given, alpha=-1)


class Attached(TorchCalls):
    """While active, ``detach`` and ``data`` give the tensor with its graph."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let a tensor through where it would be cut off."""
        if is_detach(func):
            return args[0].view_as(args[0])
        return func(*args, **kwargs)


ADD_RESIDUALS = Intervention(name="change-residuals", does="add each layer's input to its output", apply=add_residuals)
