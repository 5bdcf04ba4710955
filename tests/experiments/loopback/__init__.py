"""A W&B server on this machine that the real client and the real public API can talk to; see `serving`."""

from tests.experiments.loopback.server import KEY, Server, serving
from tests.experiments.loopback.store import Artifact, Run

__all__ = ["KEY", "Artifact", "Run", "Server", "serving"]
