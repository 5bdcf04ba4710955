"""The same projection serves as query and key, or as value, where a model has separate ones.

Shows as:      a loss that stays a little too high; parameters without a gradient beside it.
Why it hurts:  with query and key alike every token looks at itself and its like first, and cannot look for another.
Measured by:   attention-weights: the weights that queries, keys and values come from.
Judged by:     two of the three from the same columns of the same weights, while matrices of that shape lie unused, or
               other attentions of the same model keep them apart. Grade: sign.
Looks like:    parameters-not-in-the-optimizer, heads-mixed-by-a-view.
Remedy:        three projections, each used once: self.query(x), self.key(x), self.value(x).
Blind spots:   attention without projections; inside of torch's own modules; models that share on purpose everywhere.
Source:        Vaswani et al. 2017, section 3.2.2. Shared on purpose in the Reformer (Kitaev et al. 2020).
"""

from collections.abc import Callable
from typing import Any, no_type_check

import torch.nn.functional as F

from diagnostics.attention import DOT_PRODUCT, PRODUCTS, AttentionWatch, Map, plain_name
from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject


def judge(weights: AttentionWeights) -> Verdict:
    """Present where projections are shared and the model has others for it."""
    known = [each for each in weights.attentions if each.mixed_before is not None]
    shared = [each for each in known if each.shared]
    if not known:
        return not_tested("no attention was seen whose queries and keys can be followed back to their projections")
    if not shared:
        return absent(f"each of {len(known)} attentions has projections of its own for query, key and value")
    unused = max(each.unused for each in shared)
    said = f"in {len(shared)} of {len(known)} attentions the same weights give {' and '.join(shared[0].shared)}"
    if unused:
        return present(f"{said}, and {unused} matrices of that shape are never used", shared=float(len(shared)))
    if len(shared) < len(known):
        return present(f"{said}, and the others keep them apart", shared=float(len(shared)))
    return unclear(f"{said}: this model may share them on purpose")


class KeysAreQueries(AttentionWatch):
    """While active, the first attention of a sequence to itself takes its queries for keys. ``changed`` counts."""

    changed = 0

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Swap the keys of the first attention."""
        if self.changed:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            given = dict(zip(DOT_PRODUCT, args, strict=False)) | kwargs
            if self.same(self.trace_of(given["query"], (-2, -1)), self.trace_of(given["key"], (-2, -1))):
                self.changed = 1
                return func(**given | {"key": given["query"]})
        product = plain_name(func) in PRODUCTS - {"einsum", "baddbmm"} and len(args) == 2
        if product and self.same(self.trace_of(args[0], (-2, -1)), self.trace_of(args[1], (-1, -2))):
            self.changed = 1
            return func(args[0], args[0].transpose(-2, -1))
        return super().call(func, args, kwargs)

    @no_type_check
    def same(self, query: Any, key: Any) -> bool:
        """Whether queries and keys are maps of the same input."""
        maps = [None if trace is None else trace.source for trace in (query, key)]
        known = all(isinstance(each, Map) for each in maps) and query.index.shape == key.index.shape
        return known and maps[0].given == maps[1].given


def plant(subject: Subject) -> Subject:
    """The subject whose first attention uses its queries as keys.

    Raises:
        ValueError: it has fewer than two attentions whose projections can be followed.
    """
    with open_bench(subject, 0) as bench, AttentionWatch(bench.model.eval()) as watch:
        bench.loss()
    with open_bench(subject, 0) as bench, KeysAreQueries(bench.model.eval()) as mode:
        bench.loss()
    known = [each for each in watch.attentions if each.query is not None]
    if not mode.changed or len(known) < 2:
        raise ValueError("this subject has no two attentions whose projections can be followed")
    return surrounded(subject, lambda model, batch: KeysAreQueries(model))


FAULT = Fault(
    id="query-key-value-shared",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=46,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    looks_like=("parameters-not-in-the-optimizer", "heads-mixed-by-a-view"),
    wrong="query, key, value = self.query(x), self.query(x), self.value(x)",
    right="query, key, value = self.query(x), self.key(x), self.value(x)",
)
