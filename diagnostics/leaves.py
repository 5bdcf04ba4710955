"""The tensors in a batch of any shape (tensor, tuple, list, dict, object), by path; and the same batch with others."""

import copy
from collections.abc import Callable, Iterator, Mapping
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
    return dict(vars(batch)) if hasattr(batch, "__dict__") and not isinstance(batch, type) else {}


def leaves(batch: Batch, path: Path = ()) -> Iterator[tuple[Path, Shaped[Tensor, "..."]]]:
    """Every tensor of a batch with its path, in order."""
    if isinstance(batch, Tensor):
        yield path, batch
    elif len(path) < 8:  # an object may hold itself
        for key, part in parts_of_batch(batch).items():
            yield from leaves(part, (*path, key))


def changed(batch: Batch, change: Callable[[Path, Tensor], Tensor], path: Path = ()) -> Batch:
    """The same batch, of the same types, with every tensor passed through ``change``; the given one stays as it is."""
    if isinstance(batch, Tensor):
        return change(path, batch)
    if len(path) >= 8:
        return batch
    parts = {key: changed(part, change, (*path, key)) for key, part in parts_of_batch(batch).items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*parts.values())
    if isinstance(batch, tuple | list):
        return type(batch)(parts.values())
    if not parts:
        return batch
    twin = copy.copy(batch)
    if isinstance(batch, Mapping):
        data = twin.data if hasattr(twin, "data") and isinstance(twin.data, dict) else twin
        if data is not twin:
            data = twin.data = dict(data)  # UserDict: a shallow copy still shares its contents
        data.update(parts)
        return twin
    vars(twin).update(parts)
    return twin


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
