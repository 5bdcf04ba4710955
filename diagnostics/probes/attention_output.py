"""What happens to the gathered values of each attention: a linear map, or straight into the residual sum."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diagnostics.bench import Bench
from diagnostics.probe import Probe

PRODUCTS = ("AddmmBackward", "MmBackward", "BmmBackward", "BaddbmmBackward", "LinearBackward", "AddmvBackward")
FUSED = ("ScaledDotProduct", "FlashAttention", "EfficientAttention")
LAYOUT = (
    "View", "UnsafeView", "Reshape", "ReshapeAlias", "Transpose", "Permute", "T", "Clone", "Contiguous", "Expand",
    "Cat", "Stack", "Squeeze", "Unsqueeze", "Select", "Slice", "Split", "Unbind", "ToCopy", "NativeDropout",
    "AsStrided", "Alias", "Unflatten", "UnsafeSplit",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttentionOutput:
    """What the first operation is that changes the gathered values of an attention.

    Args:
        attentions: softmaxes whose result multiplies values, and fused attention calls.
        projected: of these, how many are followed by a product with a matrix.
        added: how many go into a sum as they are.
        others: the names of whatever else follows, one per attention.
    """

    attentions: int
    projected: int
    added: int
    others: tuple[str, ...]


def attention_output(bench: Bench) -> AttentionOutput:
    """What follows each attention in the autograd graph of the loss, in eval mode."""
    bench.model.eval()
    users = users_of(bench.loss())
    ends = [end for node in list(users) for end in gathered(node, users)]
    kinds = Counter(kind for end in ends for kind in [what_follows(end, users)])
    named = {kind: count for kind, count in kinds.items() if kind not in ("product", "sum")}
    return AttentionOutput(
        attentions=len(ends),
        projected=kinds["product"],
        added=kinds["sum"],
        others=tuple(sorted(kind for kind, count in named.items() for _ in range(count))),
    )


Graph = dict[Any, list[Any]]
"""Autograd node -> the nodes that use its result."""


def users_of(loss: Tensor) -> Graph:
    """Every node of the graph behind a loss, with its users."""
    users: Graph = defaultdict(list)
    root: Any = loss.grad_fn
    waiting, seen = [root], {root}
    while waiting:
        node = waiting.pop()
        users.setdefault(node, [])
        for source, _ in node.next_functions:
            if source is not None:
                users[source].append(node)
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)
    return users


def kind(node: Any) -> str:
    """Name of the operation: "Softmax" for SoftmaxBackward0."""
    return str(node.name()).partition("Backward")[0]


def is_product(node: Any) -> bool:
    """Whether a node is a matrix product or a linear map."""
    return str(node.name()).startswith(PRODUCTS)


def is_fused(node: Any) -> bool:
    """Whether a node is one of torch's attention kernels."""
    return any(name in node.name() for name in FUSED)


def beyond_layout(node: Any, users: Graph) -> list[Any]:
    """The first users of a node's result that do more than arrange it."""
    found, waiting, seen = [], list(users[node]), set()
    while waiting:
        user = waiting.pop()
        if user in seen:
            continue
        seen.add(user)
        if kind(user) in LAYOUT:
            waiting.extend(users[user])
        else:
            found.append(user)
    return found


def gathered(node: Any, users: Graph) -> list[Any]:
    """The nodes whose result is what this attention gathered; empty where the node is no attention."""
    if is_fused(node):
        return [node]
    if kind(node) != "Softmax":
        return []
    return [user for user in beyond_layout(node, users) if is_product(user)]


def what_follows(node: Any, users: Graph) -> str:
    """ "product", "sum" or the name of the operation that first changes what an attention gathered."""
    following = beyond_layout(node, users)
    if any(is_product(user) for user in following):
        return "product"
    if any(kind(user) == "Add" for user in following):
        return "sum"
    return kind(following[0]) if following else "nothing"


ATTENTION_OUTPUT = Probe(
    name="attention-output",
    question="Are the gathered values of each attention mapped by a matrix before they are added?",
    measure=attention_output,
)
