"""A model with attention is trained without a limit on the gradient's length.

Shows as:      nothing most of the time; now and then a jump of the loss that takes long to repair.
Why it hurts:  one odd batch can have a gradient many times longer than usual, and plain SGD takes the whole step.
Measured by:   structure: the subject's clipping norm, and whether it computes attention.
Judged by:     no norm with attention. Grade: deviation: the 2017 recipe itself does without, later ones clip at
               1.0. It is harmless unless a trial says otherwise.
Looks like:    learning-rate-too-high.
Remedy:        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) between backward and step.
Blind spots:   clipping by value, or inside the optimizer.
Source:        Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"; Brown et al. 2020,
               appendix B (clips at 1.0).
"""

from dataclasses import replace

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.interventions.clip_gradients import CLIP_NORM, clip_gradients
from diagnostics.probes.structure import STRUCTURE, Structure
from diagnostics.subject import Subject


def judge(facts: Structure) -> Verdict:
    """Present where attention is trained without clipping."""
    if facts.clip_norm is not None:
        return absent(f"gradients are clipped to a norm of {facts.clip_norm:.3g}", **{"clip norm": facts.clip_norm})
    if not facts.attention:
        return absent("gradients are not clipped, and nothing in the model computes attention")
    return present(
        "gradients are not clipped; this departs from today's recipes, harmless unless a trial says otherwise"
    )


def plant(subject: Subject) -> Subject:
    """The subject without clipping.

    Raises:
        ValueError: it computes no attention, so that nobody would miss the clipping.
    """
    with open_bench(subject, seed=0) as bench:
        if not STRUCTURE.measure(bench).attention:
            raise ValueError(f"{subject.name} computes no attention; the recipes that clip are about attention")
    return replace(subject, clip_norm=None)


FAULT = Fault(
    id="no-gradient-clipping",
    family="optimization",
    grade="deviation",
    concerns="fit",
    repair_rank=73,
    measured_by=(STRUCTURE,),
    judge=judge,
    plant=plant,
    remedies=(clip_gradients(CLIP_NORM),),
    looks_like=("learning-rate-too-high",),
    wrong="loss.backward()\noptimizer.step()",
    right="loss.backward()\nnn.utils.clip_grad_norm_(model.parameters(), 1.0)\noptimizer.step()",
)
