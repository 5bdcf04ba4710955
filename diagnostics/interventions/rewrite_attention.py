"""Write every attention anew from its scores and masks; what becomes of them is the subclass's affair."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diagnostics.attention import (
    DOT_PRODUCT,
    FACTORS,
    SUMS,
    AttentionWatch,
    Chain,
    additive,
    heads_of,
    masking_of,
    plain_name,
    single_factor,
)
from diagnostics.bench import open_bench
from diagnostics.intervention import surrounded
from diagnostics.subject import Subject
from diagnostics.watch import SOFTMAXES

PENDING = "pending"


class RewrittenAttention(AttentionWatch):
    """While active, weights come from ``weigh``, which is given scores without masks and what the masks hide.

    ``changed`` counts the attentions for which the subclass did something else than usual.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, trace=False)
        self.changed = 0
        self.given_scores: dict[int, Tensor] = {}

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights from scores, the usual ones here; ``axis`` is what the code normalises over."""
        return fill(scores, hidden).softmax(axis)

    @no_type_check
    def score_factor(self, name: str, args: tuple[Any, ...]) -> tuple[Tensor, float] | None:
        """Scores before their softmax and the one number that a call multiplies them by; None for any other call."""
        given = next((a for a in args[:2] if isinstance(a, Tensor) and id(a) in self.chains), None)
        if given is None or name not in FACTORS or self.chains[id(given)][1].softmaxed:
            return None
        factor = single_factor(name, args, given)
        return None if factor is None else (given, factor)

    @no_type_check
    def mask_weights(self, scores: Tensor, hidden: Tensor, weights: Callable[[], Tensor]) -> Tensor:
        """What becomes of a mask that is laid over weights; ``weights`` does what the code does."""
        return weights()

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hold masks back until the softmax, and do the softmax as told."""
        if func is F.scaled_dot_product_attention:
            return self.dot_product(dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs)
        if func is F.multi_head_attention_forward:
            return self.multi_head(args, kwargs)
        given = next((a for a in args[:3] if isinstance(a, Tensor) and id(a) in self.chains), None)
        if given is None:
            return super().call(func, args, kwargs)
        chain, name = self.chains[id(given)][1], plain_name(func)
        if not chain.softmaxed and (func in SOFTMAXES or name == "softmax"):
            return self.softmax(chain, given, args, kwargs)
        masking = masking_of(name, args, kwargs, given)
        if masking is None:
            result = super().call(func, args, kwargs)
            if isinstance(result, Tensor) and id(given) in self.given_scores and result.shape == given.shape:
                self.given_scores[id(result)] = self.given_scores[id(given)]
            return result
        hidden = masking[0]
        if chain.softmaxed:
            scores = self.given_scores.get(id(given))
            if scores is None or scores.shape != given.shape:
                return super().call(func, args, kwargs)
            pending = chain.parts.get(PENDING)
            hidden = hidden if pending is None else hidden | pending
            return self.mask_weights(
                scores, hidden.expand(scores.shape), lambda: super(RewrittenAttention, self).call(func, args, kwargs)
            )
        return self.hold_back(chain, given, hidden, args, name)

    @no_type_check
    def hold_back(self, chain: Chain, given: Tensor, hidden: Tensor, args: tuple[Any, ...], name: str) -> Tensor:
        """The scores without the mask, which waits for the softmax."""
        shape = torch.broadcast_shapes(given.shape, hidden.shape)
        rest = given.expand(shape)
        if name in SUMS:
            other = args[1] if args[0] is given else args[0]
            rest = given + (-other if name in ("sub", "isub") else other).masked_fill(hidden, 0.0)
        parts = {key: part.expand(shape) for key, part in chain.parts.items()}
        before = parts.get(PENDING)
        parts[PENDING] = hidden.expand(shape) if before is None else before | hidden
        self.chains[id(rest)] = (rest, replace(chain, parts=parts))
        return rest

    @no_type_check
    def softmax(self, chain: Chain, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The weights of scores that a softmax is given."""
        axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
        weights = self.weigh(given, chain.parts.get(PENDING), -1 if axis is None else axis)
        parts = chain.parts | {"scores": given.detach(), "softmax": weights.detach()}
        self.chains[id(weights)] = (weights, replace(chain, parts=parts, softmaxed=True))
        self.given_scores[id(weights)] = given
        return weights

    @no_type_check
    def dot_product(self, given: dict[str, Any]) -> Tensor:
        """scaled_dot_product_attention, written out."""
        query, key, value, scale = given["query"], given["key"], given["value"], given.get("scale")
        if given.get("enable_gqa"):
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
        hidden = None
        for mask in [given.get("attn_mask"), *given.get("masks", ())]:
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                found = ~mask
            else:
                laid = additive(mask)
                found = None if laid is None else laid[0]
                scores = scores + (mask if found is None else mask.masked_fill(found, 0.0))
            if found is not None:
                hidden = found if hidden is None else hidden | found
        if given.get("is_causal") and given.get("attn_mask") is None:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = self.weigh(scores, None if hidden is None else hidden.expand(scores.shape), -1)
        return F.dropout(weights, given.get("dropout_p", 0.0)) @ value

    @no_type_check
    def multi_head(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """multi_head_attention_forward, written out."""
        bound = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if given["query"].dim() != 3 or given["bias_k"] is not None or given["add_zero_attn"]:
            return F.multi_head_attention_forward(*args, **kwargs)
        dropout = given["dropout_p"] if given["training"] else 0.0
        gathered = self.dot_product(heads_of(given) | {"dropout_p": dropout})
        joined = gathered.permute(2, 0, 1, 3).flatten(2)
        return F.linear(joined, given["out_proj_weight"], given["out_proj_bias"]), None


class RewrittenMasks(RewrittenAttention):
    """While active, masked scores get their weights from a function; scores without a mask get the usual ones.

    Args:
        instead: (scores without the mask, what it hides, axis) -> weights.
        which: (scores, what the mask hides) -> whether it is one of the masks that are meant.
    """

    def __init__(
        self,
        model: nn.Module,
        instead: Callable[[Tensor, Tensor, int], Tensor],
        which: Callable[[Tensor, Tensor], bool],
    ) -> None:
        super().__init__(model)
        self.instead, self.which = instead, which

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Other weights under a mask that is meant."""
        if hidden is None or not self.which(scores, hidden):
            return super().weigh(scores, hidden, axis)
        self.changed += 1
        return self.instead(scores, hidden, axis)


def fill(scores: Float[Tensor, "*shape"], hidden: Bool[Tensor, "..."] | None) -> Float[Tensor, "*shape"]:
    """Scores that no softmax gives any weight where they are hidden."""
    return scores if hidden is None else scores.masked_fill(hidden, torch.finfo(scores.dtype).min)


def is_window(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None) -> bool:
    """Whether these are the masked scores of a window against itself."""
    return hidden is not None and scores.dim() > 2 and scores.shape[-1] == scores.shape[-2] > 1


def planted_by(subject: Subject, mode: Callable[[nn.Module], RewrittenAttention], otherwise: str) -> Subject:
    """The subject with every forward pass inside the mode.

    Raises:
        ValueError: the mode changes none of its attentions; the message says ``otherwise``.
    """
    with open_bench(subject, 0) as bench, mode(bench.model.eval()) as rewritten:
        bench.loss()
    if not rewritten.changed:
        raise ValueError(otherwise)
    return surrounded(subject, lambda model, batch: mode(model))


@no_type_check  # called inside a mode
def any_mask(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."]) -> bool:
    """Every mask is meant."""
    return True


@no_type_check  # called inside a mode
def causal_mask(scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."]) -> bool:
    """Whether a mask over a window hides what lies ahead of each query, and nothing else."""
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
    return is_window(scores, hidden) and bool((hidden == ahead).all())


def planted_masks(
    subject: Subject,
    instead: Callable[[Tensor, Tensor, int], Tensor],
    otherwise: str,
    which: Callable[[Tensor, Tensor], bool] = any_mask,
) -> Subject:
    """The subject whose masked attentions get their weights from ``instead``, as in ``RewrittenMasks``.

    Raises:
        ValueError: it has no such mask; the message says ``otherwise``.
    """
    return planted_by(subject, lambda model: RewrittenMasks(model, instead, which), otherwise)
