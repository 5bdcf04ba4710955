"""Which modules normalise, over which axis, and whether they carry one position or sample into another."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments, edited_arguments
from diagnostics.probe import Probe

EXACT = 1e-3  # 1 - cosine between an output and a normalised input: a wrong axis of length n leaves about 1/n
UNCHANGED = 1e-6  # the same for a module that hands its input on as it is (dropout, eval-mode batch norm)


@dataclass(frozen=True, kw_only=True)
class NormalisingModule:
    """One module whose output is its own input, normalised.

    Args:
        name: dotted name in the model.
        axes: of "batch", "time", "features": what mean and variance (or the mean square) are taken over.
        axes_known: whether "time" is the axis of an integer argument of the model; otherwise it is a guess.
        misfit: 1 - cosine between the output and that normalised input, scale and shift taken into account.
        other_positions: largest change of other positions' outputs when one position of the input is edited.
        other_samples: the same for one sample. Both in units of the output's standard deviation.
    """

    name: str
    axes: tuple[str, ...]
    axes_known: bool
    misfit: float
    other_positions: float
    other_samples: float


@dataclass(frozen=True, kw_only=True)
class NormalisedAxes:
    """What normalises in a model.

    Args:
        modules: in order of their first call.
        candidates: number of modules that turn a [batch, time, features] tensor into one of the same shape.
    """

    modules: tuple[NormalisingModule, ...]
    candidates: int

    def over(self, axis: str) -> tuple[NormalisingModule, ...]:
        """The modules that normalise over this axis, alone or with others."""
        return tuple(module for module in self.modules if axis in module.axes)


def normalised_axes(bench: Bench) -> NormalisedAxes:
    """Axes of every normalising module, seen on the first batch in eval mode."""
    model, batch = bench.model.eval(), bench.batch(0)
    return normalising_modules(model, lambda: bench.subject.loss(model, batch), bench.subject.batch_axis)


def normalising_modules(model: nn.Module, run: Callable[[], object], batch_axis: int) -> NormalisedAxes:
    """The modules that normalise while ``run`` calls the model."""
    sizes = token_sizes(call_arguments(model, run), batch_axis)
    seen: dict[str, NormalisingModule | None] = {}

    def look(name: str, module: nn.Module, given: Tensor, result: Tensor) -> None:
        if name not in seen:
            seen[name] = None
            seen[name] = as_normalising(name, module, given, result, sizes, batch_axis)

    with torch.no_grad(), watched_modules(model, look):
        run()
    found = [module for module in seen.values() if module is not None]
    deepest = [one for one in found if not any(other.name.startswith(one.name + ".") for other in found)]
    return NormalisedAxes(modules=tuple(deepest), candidates=len(seen))


def token_sizes(arguments: dict[str, Tensor], batch_axis: int) -> tuple[int, int] | None:
    """(samples, positions) of the model's integer arguments; None where it has no such argument of two axes."""
    for value in arguments.values():
        if value.dim() == 2 and not value.is_floating_point() and value.dtype != torch.bool:
            return value.shape[batch_axis], value.shape[1 - batch_axis]
    return None


@contextmanager
def watched_modules(model: nn.Module, look: Callable[[str, nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """``look`` at every call of a submodule that turns a 3-D float tensor into one of the same shape.

    The hooks are set when the model is called, so that they come after those of any intervention.
    """
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def watch(name: str, module: nn.Module) -> None:
        def after(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], result: object) -> None:
            given = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
            if isinstance(result, Tensor) and given is not None and is_stream(given) and given.shape == result.shape:
                look(name, module, given, result)

        handles.append(module.register_forward_hook(after, with_kwargs=True))

    def set_hooks(name: str, value: Tensor) -> Tensor:
        if not handles:
            for module_name, module in model.named_modules():
                if module_name:
                    watch(module_name, module)
        return value

    with edited_arguments(model, set_hooks):
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def is_stream(values: Tensor) -> bool:
    """Whether a tensor can hold a vector for each position of each sample."""
    return values.dim() == 3 and values.is_floating_point() and min(values.shape) > 0


def as_normalising(
    name: str,
    module: nn.Module,
    given: Float[Tensor, "first second features"],
    result: Float[Tensor, "first second features"],
    sizes: tuple[int, int] | None,
    batch_axis: int,
) -> NormalisingModule | None:
    """What a module normalises over; None where its output is not its input normalised."""
    if result is given or any(not fits_into(parameter, result) for parameter in module.parameters()):
        return None  # hands its input on, or holds a matrix
    axes = named_axes(given, sizes, batch_axis)
    shift, scale = affine(module, result)
    fits = {over: misfit(scale * normalised(given, over), result - shift) for over in CANDIDATES}
    fits[()] = misfit(scale * given, result - shift)
    over = min(fits, key=lambda axes: fits[axes])
    if fits[over] > EXACT or fits[()] < UNCHANGED or not over:
        return None
    time, batch = axes.index("time"), axes.index("batch")
    return NormalisingModule(
        name=name,
        axes=tuple(axes[axis] for axis in over if axis >= 0),
        axes_known=sizes is not None and (given.shape[batch], given.shape[time]) == sizes,
        misfit=max(0.0, fits[over]),
        other_positions=movement_elsewhere(module, given, time),
        other_samples=movement_elsewhere(module, given, batch),
    )


RMS = -1  # in a tuple of axes: the mean is left in
CANDIDATES: tuple[tuple[int, ...], ...] = ((2,), (2, RMS), (1,), (1, RMS), (0,), (0, RMS), (1, 2), (0, 1), (0, 2))


def named_axes(
    given: Float[Tensor, "first second features"], sizes: tuple[int, int] | None, batch_axis: int
) -> tuple[str, str, str]:
    """Names of the three axes: by the subject's batch axis, unless the sizes say that a module sees them swapped."""
    shape = tuple(given.shape[:2])
    expected = sizes if sizes is None or batch_axis == 0 else sizes[::-1]
    swapped = expected is not None and shape != expected and shape == expected[::-1]
    batch_first = (batch_axis == 0) != swapped
    return ("batch", "time", "features") if batch_first else ("time", "batch", "features")


def normalised(
    given: Float[Tensor, "first second features"], over: tuple[int, ...]
) -> Float[Tensor, "first second features"]:
    """The tensor with mean 0 and variance 1 (with RMS in ``over``: mean square 1) over these axes."""
    axes, values = [axis for axis in over if axis != RMS], given.double()
    centred = values if RMS in over else values - values.mean(axes, keepdim=True)
    return centred / centred.square().mean(axes, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def affine(
    module: nn.Module, like: Float[Tensor, "first second features"]
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """(shift, scale) of a normalising module: its own first two parameters that fit, in the usual order, with
    their gradients."""
    own = [p.double() for p in module.parameters(recurse=False) if fits_into(p, like)]
    one = torch.ones((), dtype=torch.float64, device=like.device)
    scale = own[0] if own else one
    return (own[1] if len(own) > 1 else 0 * one), scale


def fits_into(parameter: Tensor, like: Tensor) -> bool:
    """Whether a parameter broadcasts to a tensor without making it larger."""
    try:
        return torch.broadcast_shapes(parameter.shape, like.shape) == like.shape
    except RuntimeError:
        return False


def misfit(expected: Float[Tensor, "..."], seen: Float[Tensor, "..."]) -> float:
    """1 - cosine between two tensors: 0 where they agree up to one common factor."""
    a, b = expected.double().flatten(), seen.double().flatten()
    length = a.norm() * b.norm()
    return 1.0 if length == 0 else float(1 - a @ b / length)


def movement_elsewhere(module: nn.Module, given: Float[Tensor, "first second features"], axis: int) -> float:
    """Largest change of a module's output elsewhere when the first slice along an axis is edited, per its std."""
    edited = given.clone()
    edited.select(axis, 0).add_(torch.randn_like(given.select(axis, 0)) * given.std())
    before, after = module(given), module(edited)
    rest = range(1, given.shape[axis])
    index = torch.tensor(rest, dtype=torch.long, device=given.device)
    change = (after - before).index_select(axis, index)
    return float(change.abs().max() / before.std()) if change.numel() else 0.0


NORMALISED_AXES = Probe(
    name="normalised-axes",
    question="Over which axis does each module normalise?",
    measure=normalised_axes,
)
