"""Give torch's normalisations another epsilon."""

from collections.abc import Callable
from typing import Any

from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.norm_epsilon import DEFAULT, EPSILON_AT
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls


class OtherEpsilon(TorchCalls):
    """While active, every normalisation of torch's own has this epsilon."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the epsilon of the call."""
        if func not in EPSILON_AT:
            return func(*args, **kwargs)
        return func(*args[: EPSILON_AT[func]], **kwargs | {"eps": self.epsilon})


def with_epsilon(subject: Subject, epsilon: float) -> Subject:
    """The subject whose normalisations have this epsilon."""
    return surrounded(subject, lambda model, batch: OtherEpsilon(epsilon))


NORM_EPSILONS = Intervention(
    name="norm-epsilons",
    does=f"give every normalisation an epsilon of {DEFAULT:.0e}",
    apply=lambda subject: with_epsilon(subject, DEFAULT),
)
