"""Every attention of a stranger's forward pass, recognised from outside by its calls.

An attention is a product of two activations (the scores), a softmax, and a product of the outcome with a third
activation; or a call of torch's ``scaled_dot_product_attention`` or ``multi_head_attention_forward``. What happens in
between (masks, factors, changes of layout) is followed call by call. Nothing is patched.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from diagnostics.watch import SOFTMAXES, TorchCalls

DOT_PRODUCT = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Arguments of ``scaled_dot_product_attention`` in order."""

MOVES = {
    "view", "reshape", "transpose", "permute", "unflatten", "flatten", "squeeze", "unsqueeze", "expand", "movedim",
    "moveaxis", "swapaxes", "swapdims", "t", "chunk", "split", "unbind", "tensor_split", "split_with_sizes", "getitem",
    "select", "narrow", "T", "mT", "view_as", "reshape_as", "repeat_interleave", "unsafe_split", "unsafe_chunk",
}  # fmt: skip
KEEPS = {
    "contiguous", "clone", "to", "float", "double", "half", "bfloat16", "type_as", "type", "dropout", "detach",
    "nan_to_num", "clamp", "clip", "tanh", "clamp_min", "clamp_max",
}  # fmt: skip
SUMS = {"add", "radd", "iadd", "sub", "isub"}
FACTORS = {"mul", "rmul", "imul", "multiply", "div", "truediv", "itruediv", "divide", "true_divide"}
FILLS = {"masked_fill", "where"}
PRODUCTS = {"matmul", "bmm", "einsum", "baddbmm", "mm", "rmatmul"}
MAPS = {"linear", "addmm", "conv1d", "matmul", "bmm", "mm", "einsum", "rmatmul"}
WEAKEST = 30.0  # added to or filled into scores, less than this in size may leave a hidden key some weight
UNKNOWN = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)
MOST_INDICES = 4_000_000  # entries of a tensor that is still followed entry by entry


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """A linear map of activations: where queries, keys and values come from.

    ``weight``: where the weights lie in memory. ``given``: where its input lies in memory, and its shape.
    """

    weight: int
    given: tuple[int, tuple[int, ...]]
    outcome: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Where each entry of a tensor comes from: the flat index in what ``source`` gave, and a factor since then."""

    source: "Map | Attention"
    index: Int[Tensor, "..."]
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Masking:
    """A mask that was laid over scores or weights; ``part`` names where it hides in ``Chain.parts``."""

    part: str
    value: float
    after_softmax: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Chain:
    """Scores on their way through masks and a softmax; ``parts`` keep the layout of the tensor that they go with."""

    query: Trace | None
    key: Trace | None
    query_rms: float
    key_rms: float
    d_k: int
    parts: dict[str, Tensor]
    masks: tuple[Masking, ...] = ()
    softmaxed: bool = False


@dataclass(kw_only=True, eq=False)
class Attention:
    """One attention: all tensors end in the axes (query, key).

    Args:
        form: the call that it was made of.
        raw: products of queries and keys.
        scores: what went into the softmax.
        softmax: what came out of it.
        used: what multiplied the values.
        masks: what was laid over scores or weights: (True where hidden, value, whether after the softmax).
        query, key, value: where these come from, laid out (..., time, feature); None where that is not known.
        mixed_back: whether one position's output was put together from several positions of this attention.
    """

    form: str
    raw: Float[Tensor, "..."]
    scores: Float[Tensor, "..."]
    softmax: Float[Tensor, "..."]
    used: Float[Tensor, "..."]
    d_k: int
    query_rms: float
    key_rms: float
    masks: list[tuple[Bool[Tensor, "..."], float, bool]] = field(default_factory=list)
    query: Trace | None = None
    key: Trace | None = None
    value: Trace | None = None
    mixed_back: bool | None = None
    shape: tuple[int, ...] = ()
    time_axis: int = -2


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product of two tensors: the axes of each that are its own and that are summed over, and those of the result."""

    left: Tensor
    right: Tensor
    left_axes: tuple[int, int]
    right_axes: tuple[int, int]
    own: tuple[int, int]


def plain_name(func: Callable[..., Any]) -> str:
    """Name of a torch function without the underscores of in-place and operator forms; "T" for the property."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return str(name).strip("_")


def product_of(name: str, args: tuple[Any, ...]) -> Product | None:
    """The axes of a matrix product or an einsum of two tensors with one summed axis; None where it is neither."""
    if name == "einsum":
        return einsum_product(args)
    if name == "baddbmm":
        args = args[1:]
    if name == "rmatmul":
        args = (args[1], args[0])
    left, right = args[:2] if len(args) > 1 else (None, None)
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)) or min(left.dim(), right.dim()) < 2:
        return None
    return Product(left=left, right=right, left_axes=(-2, -1), right_axes=(-1, -2), own=(-2, -1))


def einsum_product(args: tuple[Any, ...]) -> Product | None:
    """The axes of an einsum of two tensors."""
    tensors = args[1] if len(args) > 1 and isinstance(args[1], tuple | list) else args[1:]
    if not args or not isinstance(args[0], str) or len(tensors) != 2 or "->" not in args[0]:
        return None
    given, out = args[0].replace(" ", "").replace("...", "").split("->")
    first, second = given.split(",")
    summed = [c for c in first if c in second and c not in out]
    mine = [c for c in first if c in out and c not in second]
    other = [c for c in second if c in out and c not in first]
    if [len(summed), len(mine), len(other)] != [1, 1, 1]:
        return None

    def at(letter: str, word: str) -> int:
        return word.index(letter) - len(word)

    return Product(
        left=tensors[0],
        right=tensors[1],
        left_axes=(at(mine[0], first), at(summed[0], first)),
        right_axes=(at(other[0], second), at(summed[0], second)),
        own=(at(mine[0], out), at(other[0], out)),
    )


class AttentionWatch(TorchCalls):
    """Records the attentions of every forward pass that runs while it is active.

    Args:
        model: its parameters are what is no activation.
        trace: whether to follow entries from linear maps to attentions and back, too.
    """

    def __init__(self, model: nn.Module, *, trace: bool = True) -> None:
        super().__init__()
        self.attentions: list[Attention] = []
        self.maps: list[Map] = []
        self.trace = trace
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.chains: dict[int, tuple[Tensor, Chain]] = {}
        self.traces: dict[int, tuple[Tensor, Trace]] = {}

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and note what it means for scores, weights and their origin."""
        result = func(*args, **kwargs)
        with suppress(*UNKNOWN):  # a call in a form that is not known here: what it gave is followed no further
            self.note(func, args, kwargs, result)
        return result

    @no_type_check
    def note(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """What this call means."""
        name = plain_name(func)
        if func is F.scaled_dot_product_attention:
            self.note_dot_product(args, kwargs, result)
        elif func is F.multi_head_attention_forward:
            self.note_multi_head(args, kwargs)
        elif name in PRODUCTS | MAPS:
            self.note_product(name, args, kwargs, result)
        elif name in MOVES | KEEPS | SUMS | FACTORS | FILLS or func in SOFTMAXES or name in ("softmax", "exp"):
            self.note_change(func, name, args, kwargs, result)

    @no_type_check
    def note_change(self, func, name, args, kwargs, result) -> None:
        """Scores and weights, and entries of a linear map, that were changed or laid out anew."""
        given = next((a for a in args[:3] if isinstance(a, Tensor) and id(a) in self.chains), None)
        if given is not None:
            chain = self.chains[id(given)][1]
            for tensor, changed in changed_chains(chain, func, name, args, kwargs, given, result):
                self.chains[id(tensor)] = (tensor, changed)
        if not self.trace:
            return
        given = next((a for a in args[:2] if isinstance(a, Tensor) and id(a) in self.traces), None)
        if given is None:
            return
        trace = self.traces[id(given)][1]
        if name in SUMS:
            self.note_use(trace, given)
        for tensor, moved in changed_traces(trace, func, name, args, kwargs, given, result):
            self.traces[id(tensor)] = (tensor, moved)

    @no_type_check
    def note_use(self, trace: Trace, tensor: Tensor) -> None:
        """The output of an attention enters a linear map or a sum: does a position hold one position's output?"""
        attention = trace.source
        if isinstance(attention, Attention) and tensor.dim() >= 2:
            time = time_of(trace.index, attention.shape, attention.time_axis)
            rows = time.flatten(0, -2)
            source = None if attention.query is None else attention.query.source
            if isinstance(source, Map) and len(rows) != math.prod(source.outcome[:-1]):
                return  # not one row per position: all positions are put together, as for a classifier
            mixed = bool((rows != rows[:, :1]).any())
            attention.mixed_back = mixed or bool(attention.mixed_back)

    @no_type_check
    def note_product(self, name, args, kwargs, result) -> None:
        """A linear map; the scores of an attention; or the values that its weights gather."""
        tensors = [a for a in args if isinstance(a, Tensor)] + [v for v in kwargs.values() if isinstance(v, Tensor)]
        for tensor in tensors:
            if id(tensor) in self.traces:
                self.note_use(self.traces[id(tensor)][1], tensor)
        weights = [t for t in tensors if self.is_own(t)]
        if weights:
            self.note_map(tensors, weights, result)
            return
        product = product_of(name, args)
        if product is None or name == "linear":
            return
        for side, other in (("left", "right"), ("right", "left")):
            entry = self.chains.get(id(getattr(product, side)))
            if entry is not None and entry[1].softmaxed:
                self.note_gathering(entry[1], product, side, other, result)
                return
        self.chains[id(result)] = (result, self.scores_chain(product, result))

    def is_own(self, tensor: Shaped[Tensor, "..."]) -> bool:
        """Whether a tensor is a parameter of the model or a view of one."""
        return tensor.untyped_storage().data_ptr() in self.own

    @no_type_check
    def note_map(self, tensors, weights, result) -> None:
        """Remember a linear map and index what it gave."""
        given = next((t for t in tensors if not self.is_own(t)), None)
        if given is None:
            return
        weight = max(weights, key=lambda w: w.dim())
        made = Map(weight=weight.data_ptr(), given=(given.data_ptr(), tuple(given.shape)), outcome=tuple(result.shape))
        self.maps.append(made)
        if self.trace and result.numel() <= MOST_INDICES:
            index = torch.arange(result.numel(), dtype=torch.int32, device=result.device).view(result.shape)
            self.traces[id(result)] = (result, Trace(source=made, index=index))

    @no_type_check
    def scores_chain(self, product: Product, result: Tensor) -> Chain:
        """A product of two activations, which may be the scores of an attention."""
        own, summed = product.left_axes
        other, also = product.right_axes
        return Chain(
            query=self.trace_of(product.left, (own, summed)),
            key=self.trace_of(product.right, (other, also)),
            query_rms=rms(product.left),
            key_rms=rms(product.right),
            d_k=product.left.shape[summed],
            parts={"raw": result.detach().clone()},
        )

    @no_type_check
    def trace_of(self, tensor: Tensor, axes: tuple[int, int]) -> Trace | None:
        """Where a tensor comes from, laid out (..., time, feature)."""
        entry = self.traces.get(id(tensor))
        if entry is None:
            return None
        return replace(entry[1], index=entry[1].index.movedim(axes, (-2, -1)))

    @no_type_check
    def note_gathering(self, chain: Chain, product: Product, side: str, other: str, result: Tensor) -> None:
        """Weights multiply values: an attention is complete."""
        axes, tensor = getattr(product, f"{side}_axes"), getattr(product, side)
        parts = {name: part.movedim(axes, (-2, -1)) for name, part in chain.parts.items()}
        used = tensor.detach().movedim(axes, (-2, -1)).clone()
        values, (own, summed) = getattr(product, other), getattr(product, f"{other}_axes")
        attention = Attention(
            form="written out",
            raw=parts["raw"],
            scores=parts["scores"],
            softmax=parts.get("softmax", used),
            used=used,
            d_k=chain.d_k,
            query_rms=chain.query_rms,
            key_rms=chain.key_rms,
            masks=[(parts[m.part], m.value, m.after_softmax) for m in chain.masks],
            query=chain.query,
            key=chain.key,
            value=self.trace_of(values, (summed, own)),
            time_axis=product.own[0] if side == "left" else product.own[1],
        )
        self.complete(attention, result)

    @no_type_check
    def complete(self, attention: Attention, result: Tensor) -> None:
        """Keep an attention, and follow what it gave."""
        self.attentions.append(attention)
        attention.shape = tuple(result.shape)
        if self.trace and result.numel() <= MOST_INDICES:
            index = torch.arange(result.numel(), dtype=torch.int32, device=result.device).view(result.shape)
            self.traces[id(result)] = (result, Trace(source=attention, index=index))

    @no_type_check
    def note_dot_product(self, args, kwargs, result) -> None:
        """A call of scaled_dot_product_attention."""
        given = dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs
        attention = dot_product_attention(given, "scaled_dot_product_attention")
        attention.query = self.trace_of(given["query"], (-2, -1))
        attention.key = self.trace_of(given["key"], (-2, -1))
        attention.value = self.trace_of(given["value"], (-2, -1))
        self.complete(attention, result)

    @no_type_check
    def note_multi_head(self, args, kwargs) -> None:
        """A call of multi_head_attention_forward."""
        given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        given.apply_defaults()
        if given.arguments["query"].dim() == 3:
            attention = dot_product_attention(heads_of(given.arguments), "multi_head_attention_forward")
            self.attentions.append(attention)


@no_type_check
def changed_chains(chain, func, name, args, kwargs, given, result) -> Iterator[tuple[Tensor, Chain]]:
    """Each tensor that a call made of scores or weights, with what is known about it."""
    if not isinstance(result, Tensor):
        if name in MOVES:
            moved = {key: func(part, *args[1:], **kwargs) for key, part in chain.parts.items()}
            for index, each in enumerate(result):
                yield each, replace(chain, parts={key: part[index] for key, part in moved.items()})
        return
    if name in MOVES:
        yield result, replace(chain, parts={key: func(part, *args[1:], **kwargs) for key, part in chain.parts.items()})
        return
    parts = {key: part.expand(result.shape) for key, part in chain.parts.items()}
    if func in SOFTMAXES or name in ("softmax", "exp"):
        parts["scores"] = given.detach().clone()
        if name != "exp":
            parts["softmax"] = result.detach().clone()
        yield result, replace(chain, parts=parts, softmaxed=True)
        return
    masking = masking_of(name, args, kwargs, given)
    masks = chain.masks
    if masking is not None:
        hidden, value = masking
        part = f"hidden {len(masks)}"
        parts[part] = hidden.expand(result.shape)
        masks = (*masks, Masking(part=part, value=value, after_softmax=chain.softmaxed))
    yield result, replace(chain, parts=parts, masks=masks)


@no_type_check
def masking_of(name, args, kwargs, given) -> tuple[Tensor, float] | None:
    """Where a call hides scores or weights and what it puts there; None where it lays no mask."""
    if name == "masked_fill":
        hidden, value = (*args[1:], *kwargs.values())[:2]
        return (hidden.bool(), float(value)) if hidden.any() else None
    if name == "where" and len(args) == 3:
        kept_first = args[1] is given
        value = args[2] if kept_first else args[1]
        if isinstance(value, Tensor) and not bool((value == value.flatten()[0]).all()):
            return None
        value = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
        hidden = ~args[0] if kept_first else args[0]
        return (hidden, value) if hidden.any() else None
    other = next((a for a in args[:2] if isinstance(a, Tensor) and a is not given), None)
    if other is None or other.requires_grad or other.numel() < 2:
        return None
    other = -other.float() if name in ("sub", "isub") and args[0] is given else other
    return additive(other) if name in SUMS else multiplied(other) if name in FACTORS else None


def additive(mask: Shaped[Tensor, "..."]) -> tuple[Bool[Tensor, "..."], float] | None:
    """What a tensor hides that is added to scores: its lower one of two values, or its zeros beside something positive.

    A bias with more values than two is no mask, unless some of them are as good as minus infinity.
    """
    values = mask.detach().float()
    low = float(values.min())
    if low < -WEAKEST:
        return values < -WEAKEST, low
    high = float(values.max())
    if low == high or not bool(((values == low) | (values == high)).all()) or (low != 0 and high != 0):
        return None
    return values == low, low


def multiplied(mask: Shaped[Tensor, "..."]) -> tuple[Bool[Tensor, "..."], float] | None:
    """What a tensor of zeros and ones hides that scores or weights are multiplied by."""
    values = mask.float()
    if not bool(((values == 0) | (values == 1)).all()) or not bool((values == 0).any()) or bool((values == 0).all()):
        return None
    return values == 0, 0.0


@no_type_check
def changed_traces(trace, func, name, args, kwargs, given, result) -> Iterator[tuple[Tensor, Trace]]:
    """Each tensor that a call made of traced entries by laying them out anew or by a single factor."""
    if name in MOVES and args and args[0] is given:
        moved = func(trace.index, *args[1:], **kwargs)
        if isinstance(result, Tensor):
            yield result, replace(trace, index=moved)
        else:
            for tensor, index in zip(result, moved, strict=True):
                yield tensor, replace(trace, index=index)
    elif name in KEEPS - {"nan_to_num", "clamp", "clip", "tanh", "clamp_min", "clamp_max"} and args[0] is given:
        yield result, trace
    elif name in FACTORS and isinstance(result, Tensor):
        factor = single_factor(name, args, given)
        if factor is not None:
            yield result, replace(trace, factor=trace.factor * factor)


@no_type_check
def single_factor(name, args, given) -> float | None:
    """The one number that a call multiplies a tensor by; None where there are several."""
    other = args[1] if args[0] is given else args[0]
    if isinstance(other, Tensor):
        if other.numel() != 1 or other.requires_grad:
            return None
        other = other.item()
    divides = name in ("div", "truediv", "itruediv", "divide", "true_divide")
    return 1 / other if divides and args[0] is given else None if divides else float(other)


def rms(tensor: Float[Tensor, "..."]) -> float:
    """Root of the mean square."""
    return float(tensor.detach().float().square().mean().sqrt())


def time_of(index: Int[Tensor, "*shape"], shape: tuple[int, ...], axis: int) -> Int[Tensor, "*shape"]:
    """Coordinate along an axis of entries given by their flat index in a tensor of this shape."""
    behind = 1
    for size in shape[len(shape) + axis + 1 :] if axis != -1 else ():
        behind *= size
    return (index // behind) % shape[axis]


@no_type_check
def dot_product_attention(given: dict[str, Any], form: str) -> Attention:
    """What scaled_dot_product_attention does with these arguments, written out."""
    query, key = given["query"].detach(), given["key"].detach()
    if key.shape[:-2] != query.shape[:-2] and given.get("enable_gqa"):
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = given.get("scale")
    raw = query @ key.transpose(-2, -1)
    scores = raw * (query.shape[-1] ** -0.5 if scale is None else scale)
    masks: list[tuple[Tensor, float, bool]] = []
    if given.get("is_causal") and given.get("attn_mask") is None:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        masks.append((hidden.expand(scores.shape), -torch.inf, False))
        scores = scores.masked_fill(hidden, -torch.inf)
    for mask in [given.get("attn_mask"), *given.get("masks", ())]:
        if mask is None:
            continue
        mask = mask.detach()
        hides = (~mask, -torch.inf) if mask.dtype == torch.bool else additive(mask)
        if hides is not None and bool(hides[0].any()):
            masks.append((hides[0].expand(scores.shape), hides[1], False))
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1)
    return Attention(
        form=form,
        raw=raw,
        scores=scores,
        softmax=weights,
        used=weights,
        d_k=query.shape[-1],
        query_rms=rms(query),
        key_rms=rms(key),
        masks=masks,
    )


@no_type_check
def heads_of(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of multi_head_attention_forward (time-first) as those of scaled_dot_product_attention."""
    inputs, heads = [given[name] for name in ("query", "key", "value")], given["num_heads"]
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = given["in_proj_weight"].chunk(3)
    biases = [None] * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    mapped = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    query, key, value = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in mapped)
    masks = []
    if given["attn_mask"] is not None:
        mask = given["attn_mask"]
        mask = mask.unflatten(0, (-1, heads)) if mask.dim() == 3 else mask
        masks.append(~mask if mask.dtype == torch.bool else mask)
    if given["key_padding_mask"] is not None:
        mask = given["key_padding_mask"][:, None, None]
        masks.append(~mask if mask.dtype == torch.bool else mask)
    causal = given["is_causal"] and given["attn_mask"] is None
    return {"query": query, "key": key, "value": value, "masks": masks, "is_causal": causal}
