"""From the first step every attention gives nearly all of its weight to one key.

Shows as:      a loss that falls slowly, or stands; gradients of the projections of queries and keys near zero.
Why it hurts:  a softmax that is all but a choice passes no gradient back to its scores: what is attended to is left to
               the numbers that the weights were drawn with.
Measured by:   attention-weights: the largest weight of each query that has at least three keys, in the fresh model.
Judged by:     a mean largest weight of at least SATURATED in every attention of the fresh model, two at least.
               Grade: sign.
Looks like:    scores-not-scaled, embedding-scale, no-warm-up.
Remedy:        draw the projections of queries and keys with a standard deviation near 1 / sqrt(d_model), and normalise
               what goes into them.
Blind spots:   models that are given trained (sharp attention is what they learned); an attention that collapses only
               while it is trained; a model in which one attention is left alone.
Source:        Zhai et al. 2023, "Stabilizing transformer training by preventing attention entropy collapse".
               SATURATED: ours; fresh healthy models have 0.1 to 0.55.
"""

from torch import nn

from diagnostics.attention import AttentionWatch, Map
from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.intervention import rebuilt
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS, AttentionWeights
from diagnostics.subject import Subject

SATURATED = 0.9
FEWEST = 2
PLANTED = 60.0  # what planting multiplies the projections of queries and keys by


def judge(weights: AttentionWeights) -> Verdict:
    """Present where every attention of a fresh model has all but chosen."""
    tops = [each.top for each in weights.attentions if each.top is not None and each.finite]
    if len(tops) < FEWEST:
        return not_tested("fewer than two attentions with a choice of three keys were seen")
    said = (
        f"{len(tops)} attentions give their favourite key {min(tops):.0%} to {max(tops):.0%} of the weight, on average"
    )
    if min(tops) < SATURATED:
        return absent(said, least=min(tops))
    if not weights.untrained:
        return unclear(f"{said}; the model may have learned that, as there is no fresh one to compare with")
    return present(
        f"before any training {said} over queries: their softmaxes pass hardly any gradient back", least=min(tops)
    )


def plant(subject: Subject) -> Subject:
    """The subject whose projections of queries and keys are drawn far too large.

    Raises:
        ValueError: the projections of its attentions are not found.
    """
    with open_bench(subject, 0) as bench, AttentionWatch(bench.model.eval()) as watch:
        bench.loss()
    traces = [trace for each in watch.attentions for trace in (each.query, each.key)]
    places = {trace.source.weight for trace in traces if trace is not None and isinstance(trace.source, Map)}
    names = {name for name, parameter in bench.model.named_parameters() if parameter.data_ptr() in places}
    packed = [name for name, each in bench.model.named_modules() if isinstance(each, nn.MultiheadAttention)]
    if not names and not packed:
        raise ValueError(f"the projections of queries and keys of {subject.name} are not found")

    def enlarge(model: nn.Module) -> None:
        for name in sorted(names):
            model.get_parameter(name).data.mul_(PLANTED)
        for name in packed:
            module = model.get_submodule(name)
            assert isinstance(module, nn.MultiheadAttention)
            if module.in_proj_weight is not None:
                module.in_proj_weight.data[: 2 * module.embed_dim].mul_(PLANTED)

    return rebuilt(subject, enlarge)


FAULT = Fault(
    id="attention-collapsed",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=57,
    measured_by=(ATTENTION_WEIGHTS,),
    judge=judge,
    plant=plant,
    looks_like=("scores-not-scaled", "embedding-scale", "no-warm-up"),
    follows_from=(
        "attention-softmax-over-the-wrong-axis",
        "constant-initialisation",
        "embedding-scale",
        "inputs-not-scaled",
        "norm-missing",
        "norm-over-the-wrong-axis",
        "padding-mask-inverted",
        "positions-swamp-the-tokens",
        "scores-not-scaled",
    ),
    wrong="nn.init.normal_(self.query.weight)",
    right="nn.init.xavier_uniform_(self.query.weight)",
)
