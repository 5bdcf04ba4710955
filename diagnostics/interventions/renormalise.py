"""Normalise over the features wherever a module normalises over the positions or samples."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.probes.normalised_axes import NORMALISED_AXES, NormalisingModule, affine
from diagnostics.subject import Subject

AfterForward = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Float[Tensor, "first second features"]]
"""A forward hook that gives another result."""


def over_axis(axis: int) -> AfterForward:
    """A forward hook: what the module gives if it normalises over this axis, with its own scale and shift."""

    def hook(
        module: nn.Module, args: tuple[Tensor, ...], result: Float[Tensor, "first second features"]
    ) -> Float[Tensor, "first second features"]:
        shift, scale = affine(module, result)
        turned = args[0].transpose(axis, -1)
        normal = F.layer_norm(turned, turned.shape[-1:]).transpose(axis, -1)
        return (normal * scale.to(normal.dtype) + shift.to(normal.dtype)).contiguous()

    return hook


over_features = over_axis(-1)


@contextmanager
def renormalised(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Inside, these modules of the model normalise over the features."""
    handles = [model.get_submodule(name).register_forward_hook(over_features) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def renormalise(subject: Subject) -> Subject:
    """The subject whose normalising modules all normalise over the features.

    Raises:
        ValueError: none of its modules normalises over anything else.
    """
    found = normalising(subject)
    names = mixing(found)
    if not names:
        raise ValueError(f"none of the {len(found)} normalising modules works over positions or samples")
    changed, done = subject, set[str]()
    while names - done:  # what one module hid from the look at the next one shows once it is repaired
        changed = over_features_in(changed, names - done)
        done |= names
        names = mixing(normalising(changed))
    return changed


def normalising(subject: Subject) -> tuple[NormalisingModule, ...]:
    """The subject's normalising modules."""
    with open_bench(subject, 0) as bench:
        return NORMALISED_AXES.measure(bench).modules


def mixing(modules: Iterable[NormalisingModule]) -> set[str]:
    """Names of those that normalise over positions or samples."""
    return {module.name for module in modules if {"time", "batch"} & set(module.axes)}


def over_features_in(subject: Subject, names: Collection[str]) -> Subject:
    """The subject in which these modules normalise over the features."""

    def hooked(model: nn.Module) -> None:
        for name in names:
            model.get_submodule(name).register_forward_hook(over_features)

    return rebuilt(subject, hooked)


def turned_norms(subject: Subject, axis: int) -> Subject:
    """The subject with every normalisation over features turned to another axis of its input.

    Raises:
        ValueError: it has none.
    """
    names = [module.name for module in normalising(subject) if module.axes == ("features",)]
    if not names:
        raise ValueError("no module of this subject normalises over its features; there is nothing to turn")

    def hooked(model: nn.Module) -> None:
        for name in names:
            model.get_submodule(name).register_forward_hook(over_axis(axis))

    return rebuilt(subject, hooked)


RENORMALISE = Intervention(
    name="renormalise", does="normalise over the features instead of the positions or samples", apply=renormalise
)
