"""Which ways lead through a model's graph around its matrices: residuals, and the norms that stand on them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls

PRODUCTS = ("MmBackward", "AddmmBackward", "BmmBackward", "BaddbmmBackward", "ConvolutionBackward", "LinearBackward")
FUSED = ("ScaledDotProduct", "EfficientAttention", "FlashAttention")
NORMS = ("LayerNorm", "RmsNorm", "RMSNorm", "BatchNorm", "GroupNorm", "StdBackward", "StdMeanBackward", "VarBackward")
ROOTS = ("RsqrtBackward", "LinalgVectorNormBackward", "NormBackward", "VarMeanBackward", "SqrtBackward")
OPAQUE = ("Checkpoint", "Compiled", "CustomFunction")
RECURRENT = ("Gru", "Lstm", "Rnn", "RNN")
DATA: Any = Tensor.data
Node = Any  # torch.autograd.graph.Node: a step of the backward pass


@dataclass(frozen=True, kw_only=True)
class ResidualPaths:
    """What the graph of one forward pass shows, in eval mode.

    A *stream* is what an attention reads: the input of one of the matrices in front of it, behind at least one other
    attention. It has a *residual* where a way without any matrix leads back past the last attention.

    Args:
        attentions: attentions that were called.
        depth: the most attentions in a row, one behind the other.
        streams: streams behind at least one other attention.
        without_residual: how many of them have none.
        without_residual_attached: how many have none where nothing is detached.
        norms_between: normalisations behind an attention and before another.
        norms_on_path: the fewest normalisations on the way of the deepest stream back to the embedding; None where
            there is no such way. One in a pre-norm stack, one per branch in a post-norm stack.
        scalars: parameters that are a single number (the gates of stacks that need no norms).
        recurrent: whether a recurrence, which has its own ways through time, takes part.
    """

    attentions: int
    depth: int
    streams: int
    without_residual: int
    without_residual_attached: int
    norms_between: int
    norms_on_path: int | None
    scalars: int
    recurrent: bool


def is_detach(func: Callable[..., Any]) -> bool:
    """Whether a call cuts a tensor off its graph: detach() or .data."""
    return func is Tensor.detach or func == DATA.__get__


class KeepEntries(TorchCalls):
    """Records the loss's graph with a leaf at every embedding, so that frozen tables end their ways as others do."""

    def __init__(self, *, attach: bool) -> None:
        super().__init__()
        self.attach = attach
        self.entries: set[int] = set()
        self.kept: list[Tensor] = []

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Put a leaf behind an embedding; let detach pass through where asked."""
        if self.attach and (is_detach(func)):
            return args[0].view_as(args[0])
        result = func(*args, **kwargs)
        if func is F.embedding and not result.requires_grad and torch.is_grad_enabled():
            result = result.detach().requires_grad_()
            self.kept.append(result)
        return result


def name_of(node: Node) -> str:
    """The node's kind."""
    return node.name().rpartition("::")[2]


def is_product(node: Node) -> bool:
    """Whether the node multiplies with a matrix, or is an attention in one piece."""
    return name_of(node).startswith(PRODUCTS) or is_fused(node)


def is_fused(node: Node) -> bool:
    """Whether the node is torch's own attention."""
    return any(part in name_of(node) for part in FUSED)


def is_norm(node: Node) -> bool:
    """Whether the node is a normalisation, or the root that one written out by hand takes."""
    name = name_of(node)
    return any(part in name for part in NORMS) or name.startswith(ROOTS)


def followed_by(node: Node) -> Iterator[Node]:
    """The nodes that a node's inputs came from."""
    return (after for after, _ in node.next_functions if after is not None)


def is_parameter(node: Node) -> bool:
    """Whether a node is a leaf, seen through transposes, views and casts."""
    while node.name() != "torch::autograd::AccumulateGrad":
        after = list(followed_by(node))
        if len(after) != 1 or is_product(node):
            return False
        node = after[0]
    return True


class Graph:
    """The steps between a loss and its leaves, with the attentions behind each.

    ``behind`` has one bit per attention for every node: those whose result the node depends on, itself included.
    """

    def __init__(self, loss: Tensor) -> None:
        self.order = ordered(loss.grad_fn)
        self.attentions = [node for node in self.order if is_attention(node)]
        bits = {node: 1 << index for index, node in enumerate(self.attentions)}
        self.behind: dict[Node, int] = {}
        for node in self.order:  # inputs first
            own = bits.get(node, 0)
            for after in followed_by(node):
                own |= self.behind[after]
            self.behind[node] = own

    def around(self, start: Node) -> set[Node]:
        """Products and embeddings that a way without products leads to from here, this node included."""
        found, waiting, seen = set(), [start], {start}
        while waiting:
            node = waiting.pop()
            if is_product(node) or name_of(node).startswith("Embedding"):
                found.add(node)
                continue
            for after in followed_by(node):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
            if node.name() == "torch::autograd::AccumulateGrad" and node.variable.dim() > 2:
                found.add(node)  # an entry without a table: inputs, positions, an embedding that was cut off
        return found

    def streams(self, attention: Node) -> list[Node]:
        """What the matrices in front of an attention are given; what it is given itself where there are none."""
        found, waiting, seen = [], list(followed_by(attention)), set(followed_by(attention))
        while waiting:
            node = waiting.pop()
            after = list(followed_by(node))
            data = [each for each in after if not is_parameter(each)]
            if is_product(node) and len(data) < len(after):
                found += data
                continue
            if is_attention(node):
                continue
            new = [each for each in after if each not in seen]
            seen.update(new)
            waiting += new
        return list(dict.fromkeys(found))

    def depth(self) -> int:
        """The most attentions one behind the other."""

        @cache
        def length(index: int) -> int:
            own = self.behind[self.attentions[index]] & ~(1 << index)
            return 1 + max((length(other) for other in range(len(self.attentions)) if own >> other & 1), default=0)

        return max((length(index) for index in range(len(self.attentions))), default=0)

    def has_residual(self, stream: Node) -> bool:
        """Whether a way without matrices leads from a stream past the last attention that it depends on."""
        own = self.behind[stream]
        return any(self.behind[node] & own != own for node in self.around(stream))

    def norms_back(self, stream: Node) -> int | None:
        """The fewest norms on a way without products from a stream to where no attention is behind."""
        best, waiting = {stream: int(is_norm(stream))}, [stream]
        reached = [] if self.behind[stream] else [best[stream]]
        while waiting:
            node = waiting.pop()
            if is_product(node):
                continue
            for after in followed_by(node):
                cost = best[node] + int(is_norm(after))
                if cost < best.get(after, 10**6) and after.name() != "torch::autograd::AccumulateGrad":
                    best[after] = cost
                    waiting.append(after)
                    if not self.behind[after]:
                        reached.append(cost)
        return min(reached, default=None)


def is_attention(node: Node) -> bool:
    """Whether a node is an attention of several queries: in one piece, or a softmax over at least three axes."""
    name = name_of(node)
    weights = "SoftmaxBackward" in name and "Log" not in name
    if not (weights or is_fused(node)):
        return False
    shape = tuple(node._input_metadata[0].shape)
    return len(shape) > 2 and shape[-2] > 1 and shape[-1] > 1


def is_recurrent(graph: "Graph") -> bool:
    """Whether a recurrence took part: in one piece, or gates of sigmoid and tanh written out (as on a CPU)."""
    names = {name_of(node) for node in graph.order}
    return any(part in name for name in names for part in RECURRENT) or {"SigmoidBackward0", "TanhBackward0"} <= names


def is_opaque(node: Node) -> bool:
    """Whether a step may hide others inside."""
    return isinstance(node, torch.autograd.function.BackwardCFunction) or any(part in name_of(node) for part in OPAQUE)


def ordered(last: Node) -> list[Node]:
    """Every node behind this one, inputs first."""
    order: list[Node] = []
    entered, waiting = set(), [(last, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
            continue
        if node in entered:
            continue
        entered.add(node)
        waiting.append((node, True))
        waiting += [(after, False) for after in followed_by(node) if after not in entered]
    return order


@contextmanager
def all_trainable(model: nn.Module) -> Iterator[None]:
    """Inside, every floating-point parameter asks for a gradient, so that the graph shows it."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def graph_of(bench: Bench, *, attach: bool) -> Graph | None:
    """The graph of the loss on the first batch; None where there is none or where part of it cannot be seen."""
    with all_trainable(bench.model), KeepEntries(attach=attach):
        loss = bench.loss(bench.model.eval())
    if loss.grad_fn is None:
        return None
    graph = Graph(loss)
    return None if any(map(is_opaque, graph.order)) else graph


def bare_streams(graph: Graph) -> tuple[int, int]:
    """How many streams stand behind an attention, and how many of them have no residual."""
    all_streams = {stream for attention in graph.attentions for stream in graph.streams(attention)}
    inner = [stream for stream in all_streams if graph.behind[stream]]
    return len(inner), sum(not graph.has_residual(stream) for stream in inner)


def norms_between(graph: Graph) -> int:
    """Norms that depend on an attention and on which another depends."""
    before = set()
    for attention in graph.attentions:
        waiting = [attention]
        while waiting:
            node = waiting.pop()
            new = [each for each in followed_by(node) if each not in before and graph.behind[each]]
            before.update(new)
            waiting += new
    return sum(is_norm(node) for node in before)


def residual_paths(bench: Bench) -> ResidualPaths:
    """The ways around the matrices of the freshly built model.

    Raises:
        ValueError: the loss has no graph, or parts of it (checkpoints, compiled functions) cannot be looked into.
    """
    graph = graph_of(bench, attach=False)
    if graph is None:
        raise ValueError("the loss has no graph that can be looked into")
    streams, bare = bare_streams(graph)
    attached = graph_of(bench, attach=True) if bare else graph
    deepest = max(graph.attentions, key=lambda node: graph.behind[node].bit_count(), default=None)
    paths = [] if deepest is None else [graph.norms_back(stream) for stream in graph.streams(deepest)]
    known = [path for path in paths if path is not None]
    return ResidualPaths(
        attentions=len(graph.attentions),
        depth=graph.depth(),
        streams=streams,
        without_residual=bare,
        without_residual_attached=bare_streams(attached)[1] if attached is not None else bare,
        norms_between=norms_between(graph),
        norms_on_path=max(known) if known else None,
        scalars=sum(p.numel() == 1 for p in bench.model.parameters()),
        recurrent=is_recurrent(graph),
    )


RESIDUAL_PATHS = Probe(
    name="residual-paths",
    question="Do ways without matrices lead around the layers, and which norms stand on them?",
    measure=residual_paths,
)
