"""Let every attention over a window see no later position."""

from collections.abc import Callable
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.model_call import call_arguments, random_batch, shift_of
from diagnostics.subject import Subject
from diagnostics.watch import SOFTMAXES, TorchCalls, softmax_axis

MaySee = Callable[[int], Bool[Tensor, "query key"]]
"""Length of a window -> True where the query (row) may see the key (column)."""


def causal(length: int) -> Bool[Tensor, "length length"]:
    """Each position sees itself and what is before it."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def itself(length: int) -> Bool[Tensor, "length length"]:
    """Each position sees itself alone."""
    return torch.eye(length, dtype=torch.bool)


DOT_PRODUCT = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
"""Arguments of ``scaled_dot_product_attention`` in order."""


class AttentionMask(TorchCalls):
    """While active, attention over a window (as many queries as keys) also obeys ``may_see``.

    Attention is recognised by its calls: a softmax over the last axis of square scores, torch's
    ``scaled_dot_product_attention`` and ``multi_head_attention_forward``. ``calls`` counts them.
    """

    def __init__(self, may_see: MaySee) -> None:
        super().__init__()
        self.may_see = may_see
        self.calls = 0

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hide scores, or add to the mask that the call was given."""
        kwargs = dict(kwargs)
        if func in SOFTMAXES and args and is_square(args[0]) and softmax_axis(args, kwargs) == -1:
            self.calls += 1
            hidden = ~self.may_see(args[0].shape[-1]).to(args[0].device)
            return func(args[0].masked_fill(hidden, -torch.inf), *args[1:], **kwargs)
        if func is F.scaled_dot_product_attention:
            return self.dot_product(func, args, kwargs)
        if func is F.multi_head_attention_forward:
            return self.multi_head(func, args, kwargs)
        return func(*args, **kwargs)

    def dot_product(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """scaled_dot_product_attention under the mask too."""
        given = dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs
        query, length = given["query"], given["key"].shape[-2]
        if query.shape[-2] != length:
            return func(*args, **kwargs)
        self.calls += 1
        allowed = self.may_see(length).to(query.device)
        if given.pop("is_causal", False):
            allowed = allowed & causal(length).to(query.device)
        return func(**given | {"attn_mask": joined(given.get("attn_mask"), allowed, query.dtype, seen_is_true=True)})

    def multi_head(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """multi_head_attention_forward under the mask too (query and key are time-first there)."""
        if args[0].shape[0] != args[1].shape[0]:
            return func(*args, **kwargs)
        self.calls += 1
        allowed = self.may_see(args[0].shape[0]).to(args[0].device)
        if kwargs.get("is_causal") and kwargs.get("attn_mask") is None:
            allowed = allowed & causal(args[0].shape[0]).to(args[0].device)
        attn_mask = joined(kwargs.get("attn_mask"), allowed, args[0].dtype, seen_is_true=False)
        padding = kwargs.get("key_padding_mask")
        if padding is not None and padding.is_floating_point() and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=padding.dtype).masked_fill(attn_mask, -torch.inf)
        return func(*args, **kwargs | {"attn_mask": attn_mask, "is_causal": False})


def is_square(scores: Shaped[Tensor, "..."]) -> bool:
    """Whether these can be the scores of a window against itself: [..., time, time]."""
    return scores.is_floating_point() and scores.dim() >= 3 and scores.shape[-1] == scores.shape[-2] > 1


def joined(
    given: Tensor | None, allowed: Bool[Tensor, "query key"], dtype: torch.dtype, *, seen_is_true: bool
) -> Bool[Tensor, "..."] | Float[Tensor, "..."]:
    """The given mask (boolean, or added to scores of this type) and ours; what a True means depends on the function.

    A mask of another type than the scores is not refused by every kernel of torch; some read its memory as theirs.
    """
    if given is None:
        return allowed if seen_is_true else ~allowed
    if given.is_floating_point():
        return given.to(dtype).masked_fill(~allowed, -torch.inf)
    return given & allowed if seen_is_true else given | ~allowed


def mask_attention(subject: Subject) -> Subject:
    """The subject in which no attention over a window sees a later position.

    Raises:
        ValueError: an argument of the model is no shifted copy of the targets: a source may be read whole.
    """
    view = subject.token_view
    assert view is not None
    with open_bench(subject, 0) as bench:
        batch = random_batch(view, bench.model, bench.batch(0), rows=3, seed=0)
        arguments = call_arguments(bench.model, lambda: view.logits(bench.model, batch))
        for name, value in arguments.items():
            values = value.movedim(subject.batch_axis, 0) if value.dim() == 2 else value
            if values.dim() == 2 and is_text(values) and shift_of(view, batch, values) is None:
                raise ValueError(
                    f"the model's argument '{name}' is no shifted copy of the targets; it may be read whole"
                )
    return surrounded(subject, lambda model, batch: AttentionMask(causal))


def is_text(values: Tensor) -> bool:
    """Whether whole numbers can be tokens: neither a mask (at most two values) nor the same in every row."""
    whole = not values.is_floating_point() and values.dtype != torch.bool
    return whole and len(values.unique()) > 2 and not bool((values == values[:1]).all())


MASK_ATTENTION = Intervention(
    name="mask-attention",
    does="hide later positions from every attention over a window",
    apply=mask_attention,
    needs=("token_view",),
)
