"""Leave out the activation that keeps predictions of numbers in a range."""

from collections.abc import Callable
from typing import Any, no_type_check

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.interventions.unbound_logits import unbounded
from diagnostics.probes.regression_pairs import REGRESSION_PAIRS
from diagnostics.subject import Subject
from diagnostics.watch import REGRESSIONS, TorchCalls


class Squeezed(TorchCalls):
    """While active, predictions pass a ReLU before they are compared."""

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Cut predictions off at zero."""
        if func in REGRESSIONS and args:
            return func(args[0].relu(), *args[1:], **kwargs)
        if func in REGRESSIONS:
            return func(**kwargs | {"input": kwargs["input"].relu()})
        return func(*args, **kwargs)


def free_predictions(subject: Subject) -> Subject:
    """The subject whose head's result is compared as it is.

    Raises:
        ValueError: no head was found.
    """
    with open_bench(subject, 0) as bench:
        head = REGRESSION_PAIRS.measure(bench).head
    if head is None:
        raise ValueError("no product with a weight was seen on the way to a comparison of numbers; no head is known")

    return unbounded(subject, head)


FREE_PREDICTIONS = Intervention(
    name="free-predictions", does="compare the head's result as it is", apply=free_predictions
)
