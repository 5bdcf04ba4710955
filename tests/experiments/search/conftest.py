"""A study whose trials train in a blink."""

import pytest

from experiments.config import RunConfig
from experiments.search.plan import Plan
from experiments.search.storage import quiet


@pytest.fixture
def plan(tiny: RunConfig) -> Plan:
    """Five trials of twenty steps over rate and batch size, and a short round of repeats."""
    quiet()
    return Plan(
        name="tiny",
        config=tiny,
        search=("optim.lr=1e-4..1e-1:log", "data.batch_size=3,5,7"),
        trials=5,
        tokens=1100,
        seeds=2,
        finalists=1,
    )
