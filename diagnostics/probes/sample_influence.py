"""Whether one sample of a batch moves the outputs of the others."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from diagnostics.bench import Bench
from diagnostics.model_call import call_arguments, call_outputs, edited_arguments, in_double, rounding
from diagnostics.probe import Probe
from diagnostics.rows import cutter, samples
from diagnostics.subject import Batch

FEW = 7  # samples are enough to see one move another; a batch is cut to them where the model allows


@dataclass(frozen=True, kw_only=True)
class SampleInfluence:
    """Largest movement of other samples' outputs when one sample is replaced, in standard deviations.

    Args:
        samples: in the batch that was edited.
        own: movement of the replaced sample's own output, in eval mode.
        others: movement of the other samples' outputs, in eval mode.
        others_in_training: the same in train mode with the same dropout; registered batch norms stay in eval mode.
        registered: names of the registered batch norms, which couple samples in train mode by design.
        rounding: what rounding alone may move.
    """

    samples: int
    own: float
    others: float
    others_in_training: float
    registered: tuple[str, ...]
    rounding: float


def sample_influence(bench: Bench) -> SampleInfluence:
    """Replace the first sample by the second one's input and watch the model's outputs.

    Raises:
        ValueError: the batch has fewer than three samples, or the model is not called by the loss.
    """
    batch = bench.batch(0)

    def run(model: nn.Module) -> object:
        return bench.subject.loss(model, batch)

    axes, present = sample_axes(bench, batch)
    trials = Replacement(run=run, axis=bench.subject.batch_axis, axes=axes, present=present, seed=bench.seed)
    trials = trials.cut_to_few(bench.model)
    model = in_double(bench.model, trials.before)
    own, others, precision = trials.movement(model)
    registered = tuple(name for name, module in model.named_modules() if isinstance(module, _NormBase))
    model.train()
    for name in registered:
        model.get_submodule(name).eval()
    return SampleInfluence(
        samples=trials.kept or present,
        own=own,
        others=others,
        others_in_training=trials.movement(model)[1],
        registered=registered,
        rounding=precision,
    )


def sample_axes(bench: Bench, batch: Batch) -> tuple[dict[str, int], int]:
    """(Name of an argument of the model -> the axis of the samples in it, how many samples there are).

    It is the axis that gets shorter with the batch: a mask over time can be as long as there are samples. Where the
    batch cannot be cut it is the subject's batch axis.

    Raises:
        ValueError: there are fewer than three samples, or an axis of something else is as long.
    """
    subject, count = bench.subject, samples(bench.subject, batch)
    given = call_arguments(bench.model, lambda: subject.loss(bench.model, batch))
    with suppress(Exception):  # a stranger's code may know its batch size
        cut = cutter(subject.batch_axis, count - 1)(batch, count)
        fewer = call_arguments(bench.model, lambda: subject.loss(bench.model, cut))
        axes = {name: shorter_axis(value, fewer[name]) for name, value in given.items() if name in fewer}
        found = {name: axis for name, axis in axes.items() if axis is not None}
        if found and count >= 3:
            return found, count
    return axes_by_size(list(given.items()), subject.batch_axis)


def axes_by_size(given: list[tuple[str, Tensor]], axis: int) -> tuple[dict[str, int], int]:
    """The same where all that is known is the axis: every argument that is as long along it as the longest one."""
    present = max((each.shape[axis] for _, each in given if each.dim() > axis), default=0)
    if present < 3:
        raise ValueError(f"the model's arguments hold {present} samples along axis {axis}; at least 3 are needed")
    if any(present in (*each.shape[:axis], *each.shape[axis + 1 :]) for _, each in given):
        raise ValueError(f"an argument of the model is {present} long, as there are samples, along another axis too")
    return {name: axis for name, each in given if each.dim() > axis and each.shape[axis] == present}, present


def shorter_axis(whole: Shaped[Tensor, "..."], cut: Shaped[Tensor, "..."]) -> int | None:
    """The axis along which the second tensor is shorter; None where there is not exactly one."""
    if whole.dim() != cut.dim():
        return None
    shorter = [axis for axis in range(whole.dim()) if cut.shape[axis] < whole.shape[axis]]
    return shorter[0] if len(shorter) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """The model call with and without another first sample.

    Args:
        run: runs the subject's code that calls the model.
        axis: of the samples in outputs.
        axes: of the samples in the arguments, by name.
        present: samples in the subject's own batch.
        kept: how many of them the model is given; None: all.
        seed: of the randomness of every call.
    """

    run: Callable[[nn.Module], object]
    axis: int
    axes: dict[str, int]
    present: int
    seed: int
    kept: int | None = None

    def cut_to_few(self, model: nn.Module) -> "Replacement":
        """The same with a batch of FEW samples, where the model takes such a batch."""
        few = replace(self, kept=min(FEW, self.present))
        try:
            fits = any(self.has_samples(each, FEW) for each in few.before(model))
        except Exception:  # a stranger's model may know its batch size
            fits = False
        return few if fits else self

    def has_samples(self, value: Shaped[Tensor, "..."], count: int) -> bool:
        """Whether a tensor has this many samples along the batch axis."""
        return value.dim() > self.axis and value.shape[self.axis] == count

    @torch.no_grad()
    def outputs(self, model: nn.Module, order: list[int]) -> list[Float[Tensor, "..."]]:
        """The model's outputs when it is given these samples, with the same randomness each time."""
        double = all(p.dtype == torch.float64 for p in model.parameters() if p.is_floating_point())

        def chosen(name: str, value: Tensor) -> Tensor:
            value = value.double() if double and value.is_floating_point() else value
            index = torch.tensor(order, device=value.device)
            return value.index_select(self.axes[name], index) if name in self.axes else value

        torch.manual_seed(self.seed)
        with edited_arguments(model, chosen):
            return call_outputs(model, lambda: self.run(model))

    def before(self, model: nn.Module) -> list[Float[Tensor, "..."]]:
        """The outputs for the samples as they are."""
        return self.outputs(model, list(range(self.kept or self.present)))

    def movement(self, model: nn.Module) -> tuple[float, float, float]:
        """(own movement, largest movement of the others, rounding) when the first sample becomes the second."""
        count = self.kept or self.present
        own = others = precision = 0.0
        for old, new in zip(self.before(model), self.outputs(model, [1, *range(1, count)]), strict=True):
            if self.has_samples(old, count):
                change = ((new - old).abs() / old.std().clamp_min(torch.finfo(old.dtype).tiny)).movedim(self.axis, 0)
                own, others = max(own, float(change[0].max())), max(others, float(change[1:].max()))
                precision = max(precision, rounding(old))
        return own, others, precision


SAMPLE_INFLUENCE = Probe(
    name="sample-influence",
    question="Does one sample of a batch move the outputs of the others?",
    measure=sample_influence,
)
