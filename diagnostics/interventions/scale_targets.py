"""Let a regression compare with targets of mean zero and standard deviation one."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.data_scale import DIFFERENCES, DISTANCES, data_scale
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls

Change = Callable[[Tensor], Tensor]


def paired(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, output: Change, target: Change
) -> Any:
    """The call; where it compares a model's output with targets, with both changed."""
    second = "target" if func in DISTANCES else "other"
    named = dict(zip(("input", second), args, strict=False)) | kwargs
    first, other = named.get("input"), named.get(second)
    if func not in DISTANCES + DIFFERENCES or not (isinstance(first, Tensor) and isinstance(other, Tensor)):
        return func(*args, **kwargs)
    if first.shape != other.shape or first.requires_grad == other.requires_grad:
        return func(*args, **kwargs)
    changed = (output(first), target(other)) if first.requires_grad else (target(first), output(other))
    return func(*changed, *args[2:], **{k: v for k, v in kwargs.items() if k not in ("input", second)})


class ScaledTargets(TorchCalls):
    """While active, regression losses compare with targets less a mean, divided by a standard deviation."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the target of a comparison."""
        return paired(func, args, kwargs, output=lambda out: out, target=lambda t: (t - self.mean) / self.std)


def scale_targets(subject: Subject) -> Subject:
    """The subject whose regression loss compares with standardised targets.

    Raises:
        ValueError: no regression loss was seen, or its targets are all the same.
    """
    with open_bench(subject, 0) as bench:
        scale = data_scale(bench)
    if scale.target_mean is None or not scale.target_std:
        raise ValueError(f"{subject.name} is no regression with targets that differ; nothing to scale")
    mean, std = scale.target_mean, scale.target_std
    return surrounded(subject, lambda model, batch: ScaledTargets(mean, std))


SCALE_TARGETS = Intervention(
    name="scale-targets",
    does="compare with targets of mean zero and standard deviation one",
    apply=scale_targets,
)
