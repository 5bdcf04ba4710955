"""The gradient grows by orders of magnitude on its way to the first layers.

Shows as:      a loss that jumps or becomes nan; with clipping, one that hardly moves.
Why it hurts:  layers that enlarge their input enlarge the gradient as well. The first layers are thrown about by every
               step; a clip that tames them leaves nothing for the others.
Measured by:   first-gradient: gradients with respect to the outputs of all matrix products of a fresh model.
Judged by:     the largest among the first third of them more than EXPLODED times the median among the last sixth, with
               at least ENOUGH products. Grade: sign. Named as a consequence where its cause is found.
Looks like:    learning-rate-too-high, no-gradient-clipping.
Remedy:        norms, initialisation to the width of each layer; then clipping.
Blind spots:   gradients that explode through time inside a recurrent layer, or only after some training.
Source:        Glorot & Bengio 2010; Pascanu et al. 2013. EXPLODED: ours; the ratio is between 0.04 and 4 in healthy
               models.
"""

from jaxtyping import Float
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.faults.vanishing_gradients import ENOUGH, sizes_of, told_as
from diagnostics.interventions.chain_before_head import chain_before_head
from diagnostics.interventions.clip_gradients import CLIP_NORM, clip_gradients
from diagnostics.probes.first_gradient import FIRST_GRADIENT, FirstGradient
from diagnostics.subject import Subject

EXPLODED = 1e4
PLANTED = 6.0


def judge(facts: FirstGradient) -> Verdict:
    """Present where the first layers get thousands of times the gradient of the last."""
    sizes = sizes_of(facts)
    if sizes is None:
        return not_tested(f"a gradient came back to {facts.products} matrix products; {ENOUGH} are needed")
    early, late = sizes["early"], sizes["late"]
    told = told_as("up to", sizes)
    if not 0 < late < float("inf"):
        return unclear(f"{told}: no size to compare with", **sizes)
    if early > EXPLODED * late:
        return present(f"{told}: {early / late:.1g} times as much", **sizes)
    return absent(told, **sizes)


def larger_gradient(output: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same numbers, with a gradient several times as large."""
    output = output.clone()
    if output.requires_grad:
        output.register_hook(lambda gradient: PLANTED * gradient)
    return output


def plant(subject: Subject) -> Subject:
    """The subject with twelve layers in front of its head that leave its numbers alone and enlarge the gradient."""
    return chain_before_head(subject, None, larger_gradient)


FAULT = Fault(
    id="exploding-gradients",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=59,
    measured_by=(FIRST_GRADIENT,),
    judge=judge,
    plant=plant,
    remedies=(clip_gradients(CLIP_NORM),),
    looks_like=("learning-rate-too-high", "no-gradient-clipping"),
    follows_from=(
        "initial-logits-too-large",
        "inputs-not-scaled",
        "norm-missing",
        "target-scale",
        "tied-head-scale",
    ),
    wrong="for layer in layers:\n    nn.init.normal_(layer.weight)             # std 1 at width 512",
    right="for layer in layers:\n    nn.init.kaiming_normal_(layer.weight)",
)
