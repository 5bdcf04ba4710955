"""Which numbers the loss depends on, and whether model, optimizer and saved state know them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The bookkeeping of a training setup. Names are paths of attributes; tied parameters count once.

    Args:
        registered: number of tensors in ``model.parameters()``.
        lost: trainable tensors that the loss depends on and ``model.parameters()`` does not hold.
        lost_elements: numbers in those.
        not_in_optimizer: trainable parameters of the model that the optimizer does not hold.
        not_in_optimizer_elements: numbers in those.
        trainable_elements: numbers in all trainable parameters of the model.
        foreign: tensors that the optimizer holds and that are neither the model's nor lost ones.
        without_gradient: trainable parameters that backward leaves without a gradient.
        frozen: parameters that ask for no gradient.
        plain: constant float tensors that the forward pass uses and that are plain attributes: not saved with the
            model, and not moved with it.
    """

    registered: int
    lost: tuple[str, ...]
    lost_elements: int
    not_in_optimizer: tuple[str, ...]
    not_in_optimizer_elements: int
    trainable_elements: int
    foreign: int
    without_gradient: tuple[str, ...]
    frozen: tuple[str, ...]
    plain: tuple[str, ...]


class UseWatch(TorchCalls):
    """Remembers which of some tensors are handed to a torch function."""

    def __init__(self, tensors: dict[int, str]) -> None:
        super().__init__()
        self.tensors = tensors
        self.used: set[int] = set()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the arguments and let the call happen."""
        for argument in (*args, *kwargs.values()):
            for each in argument if isinstance(argument, list | tuple) else (argument,):
                if id(each) in self.tensors:
                    self.used.add(id(each))
        return func(*args, **kwargs)


def unregistered(model: nn.Module) -> dict[str, Tensor]:
    """Float tensors that hang on the model outside of its parameters and buffers, by their path of attributes.

    Looks into lists, tuples and dicts, and into modules kept in them.
    """
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    storages = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def visit(value: Any, path: str) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            if value.is_floating_point() and id(value) not in known and value.data_ptr() not in storages:
                found[path] = value
        elif isinstance(value, nn.Module):
            for name, inner in members(value):
                visit(inner, f"{path}.{name}" if path else name)
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                visit(inner, f"{path}[{index}]")
        elif isinstance(value, dict):
            for key, inner in value.items():
                visit(inner, f"{path}[{key!r}]")

    visit(model, "")
    return found


def members(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Everything that hangs on a module: parameters, buffers, submodules and the user's own attributes."""
    for table in (module._parameters, module._buffers, module._modules):
        yield from table.items()
    for name, value in vars(module).items():
        if not name.startswith(("_parameters", "_buffers", "_modules", "_non_persistent")) and "_hooks" not in name:
            yield name, value


def leaves(loss: Tensor) -> dict[int, Tensor]:
    """The tensors at the end of the loss's graph that a gradient would reach, by their id."""
    found: dict[int, Tensor] = {}
    waiting = [loss.grad_fn]
    seen: set[object] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
        waiting.extend(following for following, _ in node.next_functions)
    return found


def parameters(bench: Bench) -> Parameters:
    """What the loss depends on, beside what the model lists and what the optimizer holds."""
    model = bench.model
    model.train()
    named = dict(model.named_parameters())
    known = {id(parameter) for parameter in named.values()}
    hidden = unregistered(model)
    names = {id(tensor): path for path, tensor in hidden.items()}
    held = {id(p): p for group in bench.subject.optimizer(model).param_groups for p in group["params"]}
    model.zero_grad(set_to_none=True)
    with UseWatch(names) as watch:
        loss = bench.loss(model)
    ends = leaves(loss)
    loss.backward()
    lost = {key: tensor for key, tensor in ends.items() if key not in known}
    outside = {name: p for name, p in named.items() if p.requires_grad and id(p) not in held}
    constant = [name for name, tensor in hidden.items() if not tensor.requires_grad and tensor.numel() > 1]
    return Parameters(
        registered=len(named),
        lost=tuple(names.get(key, "a tensor outside the model") for key in lost),
        lost_elements=sum(tensor.numel() for tensor in lost.values()),
        not_in_optimizer=tuple(outside),
        not_in_optimizer_elements=sum(p.numel() for p in outside.values()),
        trainable_elements=sum(p.numel() for p in named.values() if p.requires_grad),
        foreign=len(held.keys() - known - lost.keys()),
        without_gradient=tuple(name for name, p in named.items() if p.requires_grad and p.grad is None),
        frozen=tuple(name for name, p in named.items() if not p.requires_grad),
        plain=tuple(name for name in constant if id(hidden[name]) in watch.used),
    )


PARAMETERS = Probe(
    name="parameters",
    question="Do the model and the optimizer know every number that the loss depends on?",
    measure=parameters,
)
