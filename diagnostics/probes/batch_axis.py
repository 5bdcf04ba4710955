"""Whether a model takes the axis of the samples for that of the positions, or the other way round."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments, call_outputs, edited_arguments, in_double, rounding
from diagnostics.probe import Probe

FEW = 5  # samples are enough; a batch is cut to them where the model allows
SEQUENTIAL = (nn.RNNBase, nn.MultiheadAttention)


@dataclass(frozen=True, kw_only=True)
class BatchAxis:
    """Movements of the outputs of the freshly built model in eval mode, in standard deviations.

    Args:
        samples: in the batch.
        by_place: of a sample's outputs when the samples are given in the reverse order; 0 for a model without memory.
        by_others: of a sample's outputs when another sample is replaced.
        by_nothing: when the very same call is made again.
        sequential: torch's own attentions and recurrences that were called with a batch.
        over_samples: those of them that run along the axis of the samples, by name.
        rounding: what rounding alone may move.
    """

    samples: int
    by_place: float
    by_others: float
    by_nothing: float
    sequential: tuple[str, ...]
    over_samples: tuple[str, ...]
    rounding: float


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The model call with the samples in another order.

    Args:
        run: runs the subject's code that calls the model.
        axis: of the samples in arguments and outputs.
        present: samples in the subject's own batch.
        kept: how many of them the model is given.
        seed: of the randomness of every call.
    """

    run: Callable[[nn.Module], object]
    axis: int
    present: int
    kept: int
    seed: int

    def holds(self, value: Shaped[Tensor, "..."], count: int) -> bool:
        """Whether a tensor has this many samples along the batch axis."""
        return value.dim() > self.axis and value.shape[self.axis] == count

    def samples_of(self, value: Shaped[Tensor, "..."]) -> int | None:
        """The axis of an argument that the samples lie along; None where it has none.

        Padding masks of torch's own have the samples first even where everything else has the positions first. As many
        features as samples do not matter; as many positions as samples have been refused before.
        """
        fits = [axis for axis, size in enumerate(value.shape) if size == self.present]
        if self.axis in fits:
            return self.axis
        return fits[0] if len(fits) == 1 else None

    @torch.no_grad()
    def outputs(self, model: nn.Module, order: list[int]) -> list[Float[Tensor, "..."]]:
        """The model's outputs when it is given these samples, with the same randomness each time."""
        double = all(p.dtype == torch.float64 for p in model.parameters() if p.is_floating_point())

        def chosen(name: str, value: Tensor) -> Tensor:
            value = value.double() if double and value.is_floating_point() else value
            index = torch.tensor(order, device=value.device)
            axis = self.samples_of(value)
            return value if axis is None else value.index_select(axis, index)

        torch.manual_seed(self.seed)
        with edited_arguments(model, chosen):
            return call_outputs(model, lambda: self.run(model))

    def movement(
        self, before: list[Float[Tensor, "..."]], after: list[Float[Tensor, "..."]], first: int
    ) -> tuple[float, float]:
        """(largest movement of the samples from ``first`` on, rounding)."""
        largest, precision = 0.0, 0.0
        for old, new in zip(before, after, strict=True):
            if old.shape == new.shape and self.holds(old, self.kept):
                spread = old.std().clamp_min(torch.finfo(old.dtype).tiny)
                change = ((new - old).abs() / spread).movedim(self.axis, 0)[first:]
                largest, precision = max(largest, float(change.max())), max(precision, rounding(old))
        return largest, precision


@contextmanager
def inputs_of_sequences(model: nn.Module, seen: dict[str, Tensor]) -> Iterator[None]:
    """Inside, the first inputs with three axes of torch's own attentions and recurrences are kept by name."""

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("query", kwargs.get("input"))
            if isinstance(given, Tensor) and given.dim() == 3:
                seen.setdefault(name, given.detach())

        return hook

    handles = [
        module.register_forward_pre_hook(note(name), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, SEQUENTIAL)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def slow_path() -> Iterator[None]:
    """Inside, torch's encoder layers call their attention as a module."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def runs_along(module: nn.Module) -> int:
    """The axis that a module of torch takes for the positions."""
    return 1 if getattr(module, "batch_first", False) else 0


def along_samples(model: nn.Module, before: dict[str, Tensor], after: dict[str, Tensor], place: int) -> list[str]:
    """Modules whose first changed input, when one sample was replaced, changed in one place of their position axis.

    Only the first modules that are reached before any has mixed the samples can tell.
    """
    found = []
    for name, old in before.items():
        new = after.get(name)
        if new is None or new.shape != old.shape:
            continue
        along = runs_along(model.get_submodule(name))
        moved = (new - old).abs().amax(-1)
        places = (moved > 0).nonzero()
        if not len(places):
            continue
        in_one_position = places[:, along].unique().tolist() == [place]
        in_one_sample = places[:, 1 - along].unique().tolist() == [place]
        if in_one_position and not in_one_sample and old.shape[1 - along] > 1:
            found.append(name)
    return found


def fitting(calls: Calls, model: nn.Module) -> Calls:
    """The same with a batch of FEW samples, where the model takes such a batch."""
    few = replace(calls, kept=min(FEW, calls.present))
    try:
        fits = any(few.holds(each, few.kept) for each in few.outputs(model.eval(), list(range(few.kept))))
    except Exception:  # a stranger's model may know its batch size
        fits = False
    return few if fits else calls


def batch_axis(bench: Bench) -> BatchAxis:
    """Replace the first sample by the second, and reverse the order of the samples.

    Raises:
        ValueError: the batch has fewer than three samples or as many as positions, or the model is not called.
    """
    batch, axis = bench.batch(0), bench.subject.batch_axis

    def run(model: nn.Module) -> object:
        return bench.subject.loss(model, batch)

    arguments = call_arguments(bench.model, lambda: run(bench.model))
    present = max((each.shape[axis] for each in arguments.values() if each.dim() > axis), default=0)
    if present < 3:
        raise ValueError(f"the model's arguments hold {present} samples along axis {axis}; at least 3 are needed")
    squares = [each for each in arguments.values() if each.dim() > 1 and each.shape[:2] == (present, present)]
    if squares and len(arguments) > 1:
        raise ValueError(f"the batch has as many samples as positions ({present}): the axes cannot be told apart")
    calls = fitting(Calls(run=run, axis=axis, present=present, kept=present, seed=bench.seed), bench.model)
    order = list(range(calls.kept))
    model = in_double(bench.model, lambda model: calls.outputs(model, order))
    plain_inputs, edited_inputs = dict[str, Tensor](), dict[str, Tensor]()
    with slow_path():
        with inputs_of_sequences(model, plain_inputs):
            plain = calls.outputs(model, order)
        with inputs_of_sequences(model, edited_inputs):
            edited = calls.outputs(model, [1, *order[1:]])
        turned = [
            each.flip(axis) if calls.holds(each, calls.kept) else each for each in calls.outputs(model, order[::-1])
        ]
        again = calls.outputs(model, order)
    by_others, precision = calls.movement(plain, edited, 1)
    return BatchAxis(
        samples=calls.kept,
        by_place=calls.movement(plain, turned, 0)[0],
        by_others=by_others,
        by_nothing=calls.movement(plain, again, 0)[0],
        sequential=tuple(plain_inputs),
        over_samples=tuple(along_samples(model, plain_inputs, edited_inputs, place=0)),
        rounding=precision,
    )


BATCH_AXIS = Probe(
    name="batch-axis",
    question="Does the model take the axis of the samples for that of the positions?",
    measure=batch_axis,
)
