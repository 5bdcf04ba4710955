"""NaN or infinity comes out of the model or back as a gradient.

Shows as:      a loss of nan or inf, at once or from some step on; from then on every weight is NaN.
Why it hurts:  one such number spreads to everything that is added to or multiplied with it, and the first update writes
               it into the weights.
Measured by:   first-gradient: loss, outputs of modules and gradients of a fresh model and of the one that stands.
Judged by:     a loss or a gradient that is not finite. Grade: proof.
Looks like:    learning-rate-too-high, exploding-gradients.
Remedy:        at the first module named: no logarithm or root of what may be zero or negative, no division by zero, no
               row of attention with everything hidden; in half precision, a smaller scale.
Blind spots:   numbers that become infinite only after many steps; infinities that a mask means are left alone while
               the loss is finite.
Source:        IEEE 754 arithmetic.
"""

from collections.abc import Callable
from typing import Any

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.final_norm import NormalisedHead, head_shape
from diagnostics.probes.first_gradient import FIRST_GRADIENT, FirstGradient, PassState
from diagnostics.subject import Subject
from diagnostics.watch import PRODUCTS, TorchCalls


def judge(facts: FirstGradient) -> Verdict:
    """Present where the loss or a gradient is not finite."""
    for which, state in (("fresh", facts.fresh), ("standing", facts.standing)):
        if is_wrong(state):
            where = f", first out of {state.first_nonfinite}" if state.first_nonfinite else ""
            names = f" ({state.nonfinite_gradients[0]} first)" if state.nonfinite_gradients else ""
            return present(
                f"the loss of the {which} model is {state.loss:.4g}{where}; the gradients of "
                f"{len(state.nonfinite_gradients)} parameters are not finite{names}"
            )
    return absent(f"loss ({facts.fresh.loss:.4g}) and gradients of the fresh and the standing model are finite")


def is_wrong(state: PassState) -> bool:
    """Whether loss or gradients are not finite."""
    return not abs(state.loss) < float("inf") or bool(state.nonfinite_gradients)


class LogarithmOfLogits(TorchCalls):
    """While active, the head's scores pass through a logarithm, which half of them have none of."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.shape = NormalisedHead(width, classes)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take the logarithm of what the head gives."""
        result = func(*args, **kwargs)
        if func in PRODUCTS and len(args) > 1 and self.shape.is_head(func, args[1]):
            return result.log()
        return result


def plant(subject: Subject) -> Subject:
    """The subject whose scores are logarithms of numbers of either sign.

    Raises:
        ValueError: it has no matrix that gives the scores of a cross-entropy.
    """
    given, classes = head_shape(subject)
    return surrounded(subject, lambda model, batch: LogarithmOfLogits(given.shape[-1], classes))


FAULT = Fault(
    id="nonfinite-values",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=38,
    measured_by=(FIRST_GRADIENT,),
    judge=judge,
    plant=plant,
    looks_like=("learning-rate-too-high", "exploding-gradients"),
    follows_from=(
        "all-targets-ignored",
        "exploding-gradients",
        "inputs-not-scaled",
        "learning-rate-too-high",
        "mask-hides-the-token-itself",
        "nll-loss-without-log",
        "scaler-misused",
        "target-scale",
    ),
    wrong="loss = -torch.log(scores).mean()",
    right="loss = F.cross_entropy(scores, targets)",
)
