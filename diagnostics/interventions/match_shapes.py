"""Give targets the shape of the predictions that they are compared with."""

import warnings
from collections.abc import Callable
from typing import Any, no_type_check

from torch import Tensor

from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.regression_pairs import DIFFERENCES, crosses
from diagnostics.subject import Subject
from diagnostics.watch import REGRESSIONS, TorchCalls


class MatchedShapes(TorchCalls):
    """While active, numbers that are compared are compared one to one."""

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Reshape what has as many numbers in another shape."""
        if func in REGRESSIONS:
            given = dict(zip(("input", "target"), args, strict=False)) | kwargs
            if crosses(given["input"], given["target"]):
                given["target"] = given["target"].reshape(given["input"].shape)
            return func(given.pop("input"), given.pop("target"), *args[2:], **given)
        if func in DIFFERENCES and len(args) > 1 and all(isinstance(each, Tensor) for each in args[:2]):
            one, other = args[:2]
            if one.requires_grad != other.requires_grad and crosses(one, other):
                return func(one, other.reshape(one.shape), *args[2:], **kwargs)
        return func(*args, **kwargs)


class CrossedShapes(TorchCalls):
    """While active, predictions of a distance gain an axis that its targets lack, and torch's warning is silenced."""

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a column of the predictions and a row of the targets."""
        if func not in REGRESSIONS:
            return func(*args, **kwargs)
        given = dict(zip(("input", "target"), args, strict=False)) | kwargs
        column, row = given.pop("input").reshape(-1, 1), given.pop("target").reshape(-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return func(column, row, *args[2:], **given)


def match_shapes(subject: Subject) -> Subject:
    """The subject whose predictions meet their targets one to one."""
    return surrounded(subject, lambda model, batch: MatchedShapes())


MATCH_SHAPES = Intervention(
    name="match-shapes", does="compare each prediction with its own target alone", apply=match_shapes
)
