"""Every test of this folder computes in float64 and starts from the same seed."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _exact_and_seeded() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
