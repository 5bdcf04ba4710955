"""Weight decay shrinks the weights faster than the gradient can shape them.

Shows as:      a loss that falls at first and climbs back towards its level without any input; weights near zero.
Why it hurts:  with AdamW no weight can stay larger than 1 / weight_decay, and each step takes lr x weight_decay of it;
               with an L2 term the gradient of the penalty outweighs that of the loss.
Measured by:   optimizer-settings: the first step with a gradient of zero beside what the gradient adds to it.
Judged by:     decay alone changes the weights by at least FASTEST a step and by SHARE of what the gradient does; or a
               decay of UNHEARD or more apart from the gradient, at that pace; or, with Adam and an L2 term of
               SOMETHING or more, a penalty OUTWEIGHS times the gradient. Grade: sign.
Looks like:    learning-rate-too-low, learning-rate-too-high.
Remedy:        AdamW with 0.01 to 0.1; no decay on norms, biases and embeddings.
Blind spots:   decay that is merely somewhat too strong; penalties inside the loss.
Source:        Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"; Xie and Li 2024, "Implicit Bias of
               AdamW" (the bound 1 / weight_decay). FASTEST, SHARE, UNHEARD, OUTWEIGHS: ours; recipes decay by 1e-6 to
               3e-5 a step, healthy subjects here by 1e-4 at most, a hundredth of what the gradient does.
"""

from typing import Any

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.interventions.no_weight_decay import NO_WEIGHT_DECAY
from diagnostics.interventions.usual_settings import changed_groups
from diagnostics.probes.optimizer_settings import OPTIMIZER_SETTINGS, OptimizerSettings
from diagnostics.subject import Subject

FASTEST = 1e-3  # of the weights, in one step
SHARE = 0.3  # of what the gradient changes
UNHEARD = 4.0
OUTWEIGHS = 10.0
SOMETHING = 0.05
PLANTED = 0.1  # of the weights, in one step


def judge(settings: OptimizerSettings) -> Verdict:
    """Present where decay outruns learning."""
    decay, learning, strength = settings.decay_step, settings.learning_step, settings.weight_decay or 0.0
    penalty = strength * settings.weights / settings.gradient if settings.gradient > 0 else 0.0
    numbers = {"weight decay": strength, "decay step": decay, "learning step": learning, "penalty": penalty}
    if not strength:
        return absent("there is no weight decay", **numbers)
    told = (
        f"weight decay {strength:.3g} alone changes the weights by {decay:.2g} of their size a step, the gradient by "
        f"{learning:.2g}"
    )
    apart = decay < 1.5 * settings.lr * strength  # decoupled, or plain gradient descent: proportional to the weights
    outruns = apart and decay >= FASTEST and (decay >= SHARE * learning or strength >= UNHEARD)
    swamps = settings.adaptive and not apart and strength >= SOMETHING and penalty >= OUTWEIGHS
    if outruns:
        bound = f"; no weight can stay above {1 / strength:.2g}" if settings.adaptive else ""
        return present(f"{told}: they are gone after some {1 / decay:.0f} steps{bound}", **numbers)
    if swamps:
        return present(f"{told}: the penalty's gradient is {penalty:.0f} times as long as the loss's", **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose weights lose PLANTED of their size in every step.

    Raises:
        ValueError: its optimizer has no weight decay.
    """
    if "weight_decay" not in subject.optimizer(subject.model).param_groups[0]:
        raise ValueError(f"the optimizer of {subject.name} has no weight decay")

    def change(group: dict[str, Any]) -> None:
        group["weight_decay"] = PLANTED / group["lr"]

    return changed_groups(subject, change)


FAULT = Fault(
    id="weight-decay-too-strong",
    family="optimization",
    grade="sign",
    concerns="fit",
    repair_rank=74,
    measured_by=(OPTIMIZER_SETTINGS,),
    judge=judge,
    plant=plant,
    remedies=(NO_WEIGHT_DECAY,),
    looks_like=("learning-rate-too-low", "learning-rate-too-high"),
    wrong="AdamW(model.parameters(), lr=1e-3, weight_decay=10.0)",
    right="AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)",
)
