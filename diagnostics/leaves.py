"""The tensors in a batch of any shape (tensor, tuple, list, dict, object), by path; and the same batch with others."""

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from diagnostics.subject import Batch

Path = tuple[str | int, ...]
"""Keys, indices and attribute names from the batch down to a tensor; empty where the batch is a tensor."""


def parts_of_batch(batch: Batch) -> dict[Any, Any]:
    """What a batch holds one level down; empty for a tensor and for anything else that holds nothing."""
    if isinstance(batch, Tensor | str | bytes):
        return {}
    if isinstance(batch, Mapping):
        return dict(batch.items())
    if isinstance(batch, tuple | list):
        return dict(enumerate(batch))
    if isinstance(batch, type):
        return {}
    if hasattr(batch, "__dict__"):
        return dict(vars(batch))
    return {f.name: getattr(batch, f.name) for f in fields(batch) if f.init} if is_dataclass(batch) else {}  # slots


def leaves(batch: Batch, path: Path = ()) -> Iterator[tuple[Path, Shaped[Tensor, "..."]]]:
    """Every tensor of a batch with its path, in order."""
    if isinstance(batch, Tensor):
        yield path, batch
    elif len(path) < 8:  # an object may hold itself
        for key, part in parts_of_batch(batch).items():
            yield from leaves(part, (*path, key))


def changed(batch: Batch, change: Callable[[Path, Any], Any], path: Path = (), kind: Any = Tensor) -> Batch:
    """The same batch, of the same types, with every tensor (or whatever is of this kind) passed through ``change``.

    The given one stays as it is; whatever holds nothing that changes is given back itself.
    """
    if isinstance(batch, kind):
        return change(path, batch)
    if len(path) >= 8 or isinstance(batch, Tensor):
        return batch
    given = parts_of_batch(batch)
    parts = {key: changed(part, change, (*path, key), kind) for key, part in given.items()}
    if all(parts[key] is part for key, part in given.items()):
        return batch
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*parts.values())
    if isinstance(batch, tuple | list):
        return type(batch)(parts.values())
    if isinstance(batch, Mapping):
        return mapping_of(batch, parts)
    if not hasattr(batch, "__dict__"):
        return replace(batch, **parts)  # a dataclass with slots
    twin = copy.copy(batch)
    vars(twin).update(parts)
    return twin


def mapping_of(given: Mapping[Any, Any], parts: dict[Any, Any]) -> Mapping[Any, Any]:
    """A mapping with other values, of the same type where that can be copied and updated; a dict otherwise."""
    if type(given) is dict:
        return parts
    with suppress(Exception):  # a stranger's mapping may forbid either
        twin: Any = copy.copy(given)
        if isinstance(twin, UserDict):
            twin.data = dict(twin.data)  # a shallow copy may share its contents
        for key, part in parts.items():
            twin[key] = part
        return twin
    return parts


def cloned(batch: Batch) -> Batch:
    """The same batch with tensors of its own."""
    return changed(batch, lambda path, tensor: tensor.detach().clone())


def shapes(batch: Batch) -> str:
    """Shapes and types of a batch's tensors in words, such as "batch[0]: int64 [3, 5], batch[1]: int64 [3]"."""
    said = [
        f"{spelt(path)}: {str(leaf.dtype).removeprefix('torch.')} {list(leaf.shape)}" for path, leaf in leaves(batch)
    ]
    return ", ".join(said) or f"a {type(batch).__name__} without tensors"


def spelt(path: Path) -> str:
    """A path as one would write it: batch['labels'][0]."""
    return "batch" + "".join(f"[{key!r}]" for key in path)
