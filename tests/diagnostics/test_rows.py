"""Batches with fewer rows, whatever holds the tensors."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diagnostics.leaves import leaves
from diagnostics.rows import few_rows, mapped, samples
from tests import subjects

Pair = namedtuple("Pair", ["x", "y"])


@dataclass(frozen=True, slots=True)
class Slotted:
    """A batch without a ``__dict__``."""

    x: Tensor
    name: str = "slotted"


def holders() -> dict[str, Any]:
    x, y = torch.arange(7.0), torch.ones(7, 3)
    return {
        "dict": {"x": x, "y": y},
        "ordered dict": OrderedDict(x=x, y=y),
        "user dict": UserDict(x=x, y=y),
        "read-only mapping": MappingProxyType({"x": x, "y": y}),
        "named tuple": Pair(x, y),
        "list": [x, (y, "a word")],
        "object": SimpleNamespace(x=x, y=y, nothing=None),
        "dataclass with slots": Slotted(x),
    }


@pytest.mark.parametrize("name", holders())
def test_every_tensor_is_changed_and_the_given_batch_is_not(name: str) -> None:
    batch = holders()[name]
    before = [leaf.clone() for _, leaf in leaves(batch)]
    fewer = mapped(batch, lambda tensor: tensor[:2])
    assert all(torch.equal(now[1], then) for now, then in zip(leaves(batch), before, strict=True))
    assert [len(leaf) for _, leaf in leaves(fewer)] == [2] * len(before) != []
    expected = dict if name == "read-only mapping" else type(batch)  # which cannot be copied and updated
    assert type(fewer) is expected


def test_an_object_without_tensors_is_handed_on_as_it_is() -> None:
    generator, lonely = torch.Generator(), SimpleNamespace(words=["a"])
    assert mapped([generator, lonely], torch.clone) == [generator, lonely]
    assert mapped([lonely], torch.clone)[0] is lonely


def test_batches_that_only_behave_like_dicts_are_cut() -> None:
    whole = subjects.t5()
    subject = replace(whole, batches=lambda seed: map(UserDict, whole.batches(seed)), heldout=None, token_view=None)
    batch = next(iter(few_rows(subject, 3).batches(0)))
    assert isinstance(batch, UserDict)
    assert {len(tensor) for tensor in batch.values()} == {3} == {samples(subject, batch)}
