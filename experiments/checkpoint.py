"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one file."""

import os
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def save_checkpoint(path: Path, *, model: nn.Module, optimizer: Optimizer, progress: dict[str, Any]) -> None:
    """Write weights, optimizer, random states and `progress`; the file is whole at every moment.

    Args:
        path: replaced in one move once the new file is complete, so that a killed run leaves the old one.
        model: its parameters and buffers are kept.
        optimizer: its moments and step counts are kept.
        progress: where the run stands; numbers, text, lists and dictionaries only.
    Raises:
        ValueError: the folder cannot be written, or the disk is full.
    """
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": progress,
        "random": _random_states(),
    }
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        unfinished.unlink(missing_ok=True)
        raise ValueError(f"{path} cannot be written: {error}") from error


def load_checkpoint(path: Path, *, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put weights, optimizer and random states back, and return the `progress` that was saved with them.

    Raises:
        ValueError: there is no such file, or it is damaged.
    """
    content = read_checkpoint(path)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    _restore_random_states(content["random"])
    return content["progress"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, with all tensors on the CPU; no code from the file is run."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; the run ended before its first checkpoint, start it anew")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for each kind of damage
        raise ValueError(f"{path} is damaged ({type(error).__name__}); start the run anew") from error


def _random_states() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate()}


def _restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
