"""Heads are split or joined by a view without a transpose, which mixes positions.

Shows as:      a loss that falls slowly and stays above what the data allows, or far below it: positions leak.
Why it hurts:  view(batch, heads, time, d_k) cuts the row (time, d_model) in another order: a "position" of a head then
               holds pieces of other positions, masks and positions mean nothing any more.
Measured by:   attention-weights: where every entry of queries, keys and values comes from, and where the output goes.
Judged by:     features of one projected position spread over several positions of queries, keys or values; or one
               position of the output made of several queries. Grade: proof.
Looks like:    future-token-leak, position-blind.
Remedy:        view(batch, time, heads, d_k).transpose(1, 2), and back by transpose(1, 2).reshape(batch, time, d_model).
Blind spots:   queries and keys that pass through more than layout and single factors (rotary positions) on their way.
Source:        Vaswani et al. 2017, section 3.2.2: each head is a projection of each position.
"""

from collections.abc import Callable
from typing import Any, no_type_check

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.attention import DOT_PRODUCT, PRODUCTS, AttentionWatch, plain_name
from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.split_heads import SPLIT_HEADS
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject


def judge(weights: AttentionWeights) -> Verdict:
    """Present where a view mixes positions on the way to the heads or back."""
    known = [each for each in weights.attentions if each.mixed_before is not None]
    if not known:
        return not_tested("no attention was seen whose queries and keys can be followed back to their projections")
    before, behind = [e for e in known if e.mixed_before], [e for e in known if e.mixed_behind]
    if not before and not behind:
        return absent(f"in each of {len(known)} attentions a head's position holds features of that position alone")
    ways = [f"{len(before)} mix positions when heads are split"] if before else []
    ways += [f"{len(behind)} when they are joined"] if behind else []
    return present(
        f"of {len(known)} attentions {' and '.join(ways)}: the features of one position end up in several, as a view "
        "without a transpose does",
        split=float(len(before)),
        joined=float(len(behind)),
    )


class MixedHeads(AttentionWatch):
    """While active, projected queries, keys and values are cut into heads by a view. ``changed`` counts."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.changed = 0

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Mix what goes into the products of an attention."""
        if func is F.scaled_dot_product_attention:
            given = dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs
            return super().call(func, (), given | {n: self.mix(given[n], False) for n in ("query", "key", "value")})
        if plain_name(func) in PRODUCTS - {"einsum", "baddbmm"} and len(args) == 2:
            side = -2 if args[0].shape[-1] == args[1].shape[-2] and id(args[0]) not in self.chains else -1
            args = (self.mix(args[0], False), self.mix(args[1], side == -2))
        return super().call(func, args, kwargs)

    @no_type_check
    def mix(self, tensor: Float[Tensor, "..."], turned: bool) -> Float[Tensor, "..."]:
        """(batch, heads, time, d_k) as a view of (batch, time, heads * d_k); ``turned``: the last axes swapped."""
        if id(tensor) not in self.traces or tensor.dim() != 4 or id(tensor) in self.chains:
            return tensor
        laid = tensor.transpose(-2, -1) if turned else tensor
        self.changed += laid.shape[1] > 1 and laid.shape[2] > 1
        mixed = laid.transpose(1, 2).reshape(laid.shape)
        return mixed.transpose(-2, -1) if turned else mixed


def plant(subject: Subject) -> Subject:
    """The subject whose heads are cut by a view.

    Raises:
        ValueError: it has no attention of several heads that can be reached.
    """
    with open_bench(subject, 0) as bench, MixedHeads(bench.model.eval()) as mode:
        bench.loss()
    if not mode.changed:
        raise ValueError("no attention of several heads was seen that is not one of torch's own modules")
    return surrounded(subject, lambda model, batch: MixedHeads(model))


FAULT = Fault(
    id="heads-mixed-by-a-view",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=25,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    remedies=(SPLIT_HEADS,),
    looks_like=("future-token-leak", "position-blind"),
    wrong="queries = projected.view(batch, heads, time, d_k)",
    right="queries = projected.view(batch, time, heads, d_k).transpose(1, 2)",
)
