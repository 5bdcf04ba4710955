"""Private copies of a stranger's model; where there can be none, the model itself, put back by value afterwards."""

import copy
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

SHARE_OF_MEMORY = 0.5  # of what is free: training a copy needs about as much again for its gradients


def model_copy(model: nn.Module) -> nn.Module:
    """A copy that shares no numbers with the model; tensors that share memory within it do so in the copy too.

    Cached tensors inside a graph are copied without their graph. Locks, files and other things that refuse to be
    copied are shared.

    Raises:
        ValueError: the model is too big to copy, or still refuses.
    """
    if not fits(model):
        raise ValueError(f"the model ({size(model) / 2**30:.3g} GiB) does not fit into half of the free memory again")
    try:
        twin = copy.deepcopy(model)
    except Exception:  # a stranger's module may hold anything
        try:
            twin = copy.deepcopy(model, {id(each): stand_in(each) for each in stubborn(model, set())})
        except Exception as error:
            raise ValueError(f"the model refuses to be copied: {type(error).__name__}: {error}") from error
    _share_alike(model, twin)
    return twin


@contextmanager
def private_model(model: nn.Module) -> Iterator[nn.Module]:
    """A copy of the model to do anything to; where it cannot be copied, the model itself, restored when this ends."""
    try:
        twin = model_copy(model)
    except ValueError:
        with restored(model):
            yield model
        return
    yield twin


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Whatever happens to the model inside, afterwards it is as it was, by value: numbers, gradients, mode, attributes.

    The numbers wait in memory where they fit, otherwise in a temporary file.
    """
    held = held_tensors(model)
    settings = [(each, each.requires_grad, each.grad if each.is_leaf else None) for each in held]
    tensors = [*held, *(grad for *_, grad in settings if grad is not None)]
    memory = [tensor.data for tensor in tensors]
    attributes = [_remembered(module) for module in model.modules()]
    with saved(tensors, on_disk=not fits(model)) as put_back:
        try:
            yield
        finally:
            for attribute in attributes:
                attribute()
            for tensor, data in zip(tensors, memory, strict=True):
                tensor.data = data
            for tensor, requires_grad, grad in settings:
                if tensor.is_leaf:
                    tensor.requires_grad_(requires_grad)
                    tensor.grad = grad
            put_back()


@contextmanager
def saved(tensors: list[Tensor], *, on_disk: bool) -> Iterator[Callable[[], None]]:
    """Keeps the values of tensors; its function writes them back into the same memory."""
    targets = [tensor.detach() for tensor in tensors]
    if not on_disk:
        values = [tensor.clone() for tensor in targets]
        yield lambda: _write(targets, values)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.pt"
        torch.save(targets, file)
        yield lambda: _write(targets, torch.load(file, map_location="cpu", mmap=True))


@torch.no_grad()
def _write(targets: list[Tensor], values: list[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _remembered(module: nn.Module) -> Callable[[], None]:
    """A function that gives a module the attributes that it has now; containers stay the same objects."""
    before = dict(vars(module))
    contents = [(value, copy.copy(value)) for value in before.values() if isinstance(value, dict | list | set)]

    def put_back() -> None:
        vars(module).clear()
        vars(module).update(before)
        for container, content in contents:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)

    return put_back


def held_tensors(model: nn.Module) -> list[Shaped[Tensor, "..."]]:
    """Parameters, buffers and tensors that are plain attributes of a module, each once."""
    plain = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    return list({id(each): each for each in (*model.parameters(), *model.buffers(), *plain)}.values())


def size(model: nn.Module) -> int:
    """Bytes of the model's numbers."""
    return sum(each.numel() * each.element_size() for each in held_tensors(model))


def fits(model: nn.Module) -> bool:
    """Whether another copy fits into half of the memory that is free on each of its devices."""
    needed: dict[torch.device, int] = {}
    for each in held_tensors(model):
        needed[each.device] = needed.get(each.device, 0) + each.numel() * each.element_size()
    return all(count <= SHARE_OF_MEMORY * free_memory(device) for device, count in needed.items())


def free_memory(device: torch.device) -> float:
    """Bytes that can still be had on a device; infinite where the system does not tell."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    if device.type == "cpu":
        with suppress(OSError, StopIteration, ValueError):
            line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
            return float(line.split()[1]) * 1024
        with suppress(OSError, ValueError, AttributeError):
            return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def stubborn(value: Any, seen: set[int]) -> Iterator[Any]:
    """What refuses to be copied within a value: in its containers and attributes, as deep as they go."""
    if id(value) in seen or isinstance(value, type | ModuleType | FunctionType):
        return
    seen.add(id(value))
    parts = parts_of(value)
    for part in parts:
        yield from stubborn(part, seen)
    if not parts:
        try:
            copy.deepcopy(value)
        except Exception:  # whatever its reason
            yield value


def parts_of(value: Any) -> Collection[Any]:
    """What a container or an object with attributes holds; nothing for a tensor."""
    if isinstance(value, Tensor):
        return ()
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return [*value]
    return [*vars(value).values()] if hasattr(value, "__dict__") else ()


def stand_in(value: Any) -> Any:
    """What stands in a copy for a value that refuses to be copied."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.clone_state() if isinstance(value, torch.Generator) else value


def _share_alike(model: nn.Module, twin: nn.Module) -> None:
    """Parameters that are different objects over the same memory in the model are so in its twin."""
    first: dict[tuple[Any, ...], Tensor] = {}
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        where = (one.device, one.data_ptr(), one.shape, one.stride())
        if one.numel() and first.setdefault(where, other) is not other:
            other.data = first[where].data
