"""The model cannot tell in which order the earlier tokens came.

Shows as:      a loss that rests near what the last token and a bag of the others allow (the bigram level or a little
               below it); text with the right words in no order.
Why it hurts:  attention by itself is a weighted mean: without positions, "dog bites man" is "man bites dog".
Measured by:   context-order: permute the tokens before the last one read, watch the last prediction.
Judged by:     several permutations move nothing beyond rounding while other tokens in their place do. Grade: proof.
Looks like:    at-the-entropy-floor, learning-rate-too-low.
Remedy:        add positions to the embedding (sinusoidal or learned), or rotate queries and keys by them.
Blind spots:   models without a token view; a causal decoder of two or more layers without positions is not blind: its
               middle layers see how many tokens stand before each (Haviv et al. 2022). Planting needs attention.
Source:        Vaswani et al. 2017, section 3.5. Rounding: 1e-9 in double and 1e-4 in single precision, three digits
               above either; sums in another order differ by less.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.interventions.mask_attention import AttentionMask, itself
from diagnostics.probes.context_order import CONTEXT_ORDER, ContextOrder
from diagnostics.subject import Batch, Subject


def judge(order: ContextOrder) -> Verdict:
    """Present where order moves nothing and content does."""
    numbers = {"movement by order": order.by_order, "movement by content": order.by_content}
    if order.by_content <= order.rounding:
        return unclear(
            f"replacing the {order.context} earlier tokens moves the last prediction by {order.by_content:.1g} "
            "standard deviations: they are not read at all, in whatever order",
            **numbers,
        )
    if order.by_order <= order.rounding:
        return present(
            f"{order.permutations} permutations of {order.context} earlier tokens move the last prediction by at most "
            f"{order.by_order:.1g} standard deviations, other tokens by {order.by_content:.2g}",
            **numbers,
        )
    return absent(
        f"permuting {order.context} earlier tokens moves the last prediction by {order.by_order:.2g} standard "
        f"deviations (other tokens: {order.by_content:.2g})",
        **numbers,
    )


@contextmanager
def bag_of_words(model: nn.Module, batch_axis: int) -> Iterator[None]:
    """Inside, an embedded token also carries the mean of those before it, and attention sees nothing else."""

    def with_mean(module: nn.Module, args: tuple[Tensor, ...], result: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if result.dim() != 3 or 1 in result.shape[:2]:
            return result
        by_sample = result.movedim(batch_axis, 0)
        count = torch.arange(1, by_sample.shape[1] + 1, device=result.device, dtype=result.dtype)
        return (by_sample + by_sample.cumsum(1) / count[:, None]).movedim(0, batch_axis)

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(with_mean).remove)
        stack.enter_context(AttentionMask(itself))
        yield


def plant(subject: Subject) -> Subject:
    """The subject whose model reads a bag of earlier words instead of attending to them.

    Raises:
        ValueError: it has no token view, or no attention over a window.
    """
    if subject.token_view is None:
        raise ValueError("this subject has no token view; in what order it reads nobody can say")
    with open_bench(subject, 0) as bench, AttentionMask(itself) as mode:
        bench.loss()
    if not mode.calls:
        raise ValueError("this subject has no attention over a window; its order of reading cannot be taken away")

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        return bag_of_words(model, subject.batch_axis)

    return surrounded(subject, surroundings)


FAULT = Fault(
    id="position-blind",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=51,
    measured_by=(CONTEXT_ORDER,),
    judge=judge,
    plant=plant,
    follows_from=("attention-collapsed", "batch-first-mismatch", "positions-on-the-batch-axis"),
    looks_like=("at-the-entropy-floor", "learning-rate-too-low"),
    wrong="x = embedding(tokens)",
    right="x = embedding(tokens) + positions[: tokens.shape[1]]",
)
