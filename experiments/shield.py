"""Keeps a script that runs under observation away from its user's Weights & Biases account."""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

QUIET = ("disabled", "dryrun", "offline")


def shielded(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """An environment in which W&B works offline, with its files in a folder of ours; one that is disabled stays so."""
    mode = environment.get("WANDB_MODE", "")
    return {
        **environment,
        "WANDB_MODE": mode if mode in QUIET else "offline",
        "WANDB_DIR": str(folder),
        "WANDB_ERROR_REPORTING": "false",
    }


def keep_wandb_offline() -> None:
    """From now on ``wandb.init`` in this process stays offline whatever it is told, its files in our folder."""
    sys.meta_path.insert(0, _OfflineFinder(os.environ["WANDB_DIR"]))


class _OfflineFinder(importlib.abc.MetaPathFinder):
    def __init__(self, folder: str) -> None:
        self.folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual place of wandb, with a loader that changes ``init`` afterwards; nothing else is ours."""
        if name != "wandb":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _OfflineLoader(spec.loader, self.folder)
        return spec


class _OfflineLoader(importlib.abc.Loader):
    def __init__(self, loader: Any, folder: str) -> None:
        self.loader, self.folder = loader, folder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As usual."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As usual, and then ``init`` and ``login`` do without a server."""
        self.loader.exec_module(module)
        original = module.init

        def init(*args: Any, **kwargs: Any) -> Any:
            wished = kwargs.get("mode") or os.environ.get("WANDB_MODE")
            mode = "disabled" if wished == "disabled" else "offline"
            return original(*args, **(kwargs | {"mode": mode, "dir": self.folder}))

        module.init = init  # type: ignore[attr-defined]
        module.login = lambda *args, **kwargs: True  # type: ignore[attr-defined]  # it asks the server about the key
