"""The gradient all but disappears on its way to the first layers.

Shows as:      a loss that falls to what the frequencies of the targets allow; first layers that stay as drawn.
Why it hurts:  every saturated or small layer multiplies the gradient by less than one. What is left of it after many
               cannot move the layers that read the input.
Measured by:   first-gradient: gradients with respect to the outputs of all matrix products of a fresh model.
Judged by:     the largest among the first third of them less than VANISHED of the median among the last sixth, with at
               least ENOUGH products. Grade: sign. Named as a consequence where its cause is found.
Looks like:    dead-relus, learning-rate-too-low.
Remedy:        residuals, norms, activations that do not saturate, initialisation to the width of each layer.
Blind spots:   gradients that vanish through time inside a recurrent layer, or only after some training.
Source:        Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks".
               VANISHED: ours; the ratio is between 0.04 and 4 in healthy models.
"""

import torch

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.chain_before_head import chain_before_head
from diagnostics.probes.first_gradient import FIRST_GRADIENT, FirstGradient
from diagnostics.subject import Subject

VANISHED = 1e-6
ENOUGH = 6
PLANTED = 0.5


def judge(facts: FirstGradient) -> Verdict:
    """Present where next to nothing of the gradient reaches the first layers."""
    sizes = sizes_of(facts)
    if sizes is None:
        return not_tested(f"a gradient came back to {facts.products} matrix products; {ENOUGH} are needed")
    early, late = sizes["early"], sizes["late"]
    told = told_as("at most", sizes)
    if not late > 0:
        return unclear(f"{told}: there is none to vanish", **sizes)
    if early < VANISHED * late:
        return present(f"{told}: {early / late:.1g} of it is left", **sizes)
    return absent(told, **sizes)


def sizes_of(facts: FirstGradient) -> dict[str, float] | None:
    """The gradients at the first and at the last products, and how many there are; None where these are too few."""
    if facts.early is None or facts.late is None or facts.products < ENOUGH:
        return None
    return {"early": facts.early, "late": facts.late, "products": float(facts.products)}


def told_as(bound: str, sizes: dict[str, float]) -> str:
    """The two gradients in words; ``bound`` says how the first is meant: "at most", "up to"."""
    return (
        f"the gradient at the first of {sizes['products']:.0f} matrix products is {bound} {sizes['early']:.2g}, at the "
        f"last {sizes['late']:.2g}"
    )


def plant(subject: Subject) -> Subject:
    """The subject with twelve sigmoid layers in front of its head."""
    return chain_before_head(subject, PLANTED, torch.sigmoid)


FAULT = Fault(
    id="vanishing-gradients",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=58,
    measured_by=(FIRST_GRADIENT,),
    judge=judge,
    plant=plant,
    looks_like=("dead-relus", "learning-rate-too-low"),
    follows_from=(
        "attention-softmax-over-the-wrong-axis",
        "bounded-logits",
        "constant-initialisation",
        "dead-relus",
        "embedding-scale",
        "forward-without-gradient",
        "initial-logits-too-large",
        "inputs-not-scaled",
        "loss-without-gradient",
        "memory-not-used",
        "no-final-norm",
        "norm-missing",
        "residual-detached",
        "residual-missing",
        "saturated-output",
        "softmax-before-cross-entropy",
        "tied-head-scale",
    ),
    wrong="layers = [m for _ in range(12) for m in (nn.Linear(128, 128), nn.Sigmoid())]",
    right="layers = [m for _ in range(12) for m in (nn.Linear(128, 128), nn.LayerNorm(128), nn.GELU())]",
)
