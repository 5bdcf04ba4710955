"""What every test can rely on: no network, nothing of the user's, one thread, the same random numbers."""

import os
import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from diagnostics.fault import Fault, Verdict, not_tested
from diagnostics.probe import read
from diagnostics.subject import Subject

OFFLINE = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
}
LOOPBACK = ("127.", "::1", "localhost")


def pytest_configure() -> None:
    """Set the environment before any test module imports a library that reads it."""
    os.environ.update(OFFLINE)
    os.environ.pop("WANDB_API_KEY", None)
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches and settings of this session only."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(variable, str(tmp_path_factory.mktemp(variable.lower())))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOOPBACK):
            raise RuntimeError(f"a test tried to reach {address[0]}; tests use no network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test starts from the same random state, in whatever order tests run."""
    random.seed(0)
    torch.manual_seed(0)


def judged(fault: Fault, subject: Subject, seed: int = 0) -> Verdict:
    """The fault's verdict on a subject, from fresh readings."""
    readings = [read(probe, subject, seed) for probe in fault.measured_by]
    for reading in readings:
        if reading.reason is not None:
            return not_tested(reading.reason)
    return fault.judge(*[reading.measurement for reading in readings])


@pytest.fixture
def verdict_of() -> Callable[..., Verdict]:
    """fault, subject -> verdict."""
    return judged
