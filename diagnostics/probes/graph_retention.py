"""Does the recorded loss curve keep the graphs of its steps alive?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.probe import Probe

MOST_NODES = 200_000  # walked at most; a thousand kept steps of a 6 + 6 layer model have five million


@dataclass(frozen=True, kw_only=True)
class GraphRetention:
    """What hangs on the entries of the loss history.

    Args:
        entries: losses in the history.
        tensors: entries that are tensors.
        with_graph: entries that have an autograd graph behind them.
        nodes_per_entry: nodes reachable from the newest such entry.
        nodes: different nodes reachable from all entries that were walked, newest first.
        walked: how many entries that is; fewer than ``with_graph`` where there are very many nodes.
        saved_bytes: bytes of the tensors that the newest entry's graph keeps; 0 once backward has freed them.
    """

    entries: int
    tensors: int
    with_graph: int
    nodes_per_entry: int
    nodes: int
    walked: int
    saved_bytes: int


def graph_retention(bench: Bench) -> GraphRetention:
    """The graphs that are reachable from the subject's loss history."""
    history = bench.subject.history
    assert history is not None
    tensors = [loss for loss in history.losses if isinstance(loss, Tensor)]
    graphs = [loss.grad_fn for loss in reversed(tensors) if loss.grad_fn is not None]
    newest = list(new_nodes(graphs[0], set())) if graphs else []
    seen: set[Any] = set()
    walked = 0
    for graph in graphs:
        if len(seen) > MOST_NODES:
            break
        walked += 1
        for _ in new_nodes(graph, seen):
            pass
    return GraphRetention(
        entries=len(history.losses),
        tensors=len(tensors),
        with_graph=len(graphs),
        nodes_per_entry=len(newest),
        nodes=len(seen),
        walked=walked,
        saved_bytes=saved_bytes(newest),
    )


def new_nodes(root: Any, seen: set[Any]) -> Iterator[Any]:
    """Nodes reachable from an autograd node that are not in ``seen``; adds them to it."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(before for before, _ in node.next_functions)


def saved_bytes(nodes: Iterable[Any]) -> int:
    """Bytes of the different tensors that these nodes keep for the backward pass."""
    storages = {}
    for node in nodes:
        for tensor in saved_tensors(node):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def saved_tensors(node: Any) -> Iterator[Tensor]:
    """What one node has saved; nothing where backward has freed it."""
    for name in dir(node):
        if not name.startswith("_saved_"):
            continue
        try:
            saved = getattr(node, name)
        except RuntimeError:  # freed by backward
            continue
        values = saved if isinstance(saved, tuple) else (saved,)
        yield from (value for value in values if isinstance(value, Tensor))


GRAPH_RETENTION = Probe(
    name="graph-retention",
    question="Does the recorded loss curve keep the graphs of its steps alive?",
    measure=graph_retention,
    needs=("history",),
)
