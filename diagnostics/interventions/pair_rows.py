"""Hand the loss one row of the model's output per sample and position, in the order of its targets."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.interventions.edit_loss import LossEdit
from diagnostics.model_call import tensors_in
from diagnostics.probes.score_origin import SCORE_ORIGIN
from diagnostics.subject import Batch, Subject


class PairedRows(LossEdit):
    """While active, cross_entropy gets the rows of the model's output, samples first, and its targets in that order.

    Args:
        model: whose output is looked at.
        batch_axis: of the output.
        classes: its last axis.
        turned: whether flat targets run through positions first.
    """

    def __init__(self, model: nn.Module, batch_axis: int, classes: int, turned: bool) -> None:
        super().__init__(self.paired)
        self.model, self.batch_axis, self.classes, self.turned = model, batch_axis, classes, turned
        self.output: Tensor | None = None
        self.blind = False  # the loss came before the model's output, from inside the model
        self.inside = ExitStack()

    def __enter__(self) -> "PairedRows":
        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            found = [each for each in tensors_in(output) if each.is_floating_point() and each.dim() == 3]
            self.output = found[0] if found else None

        self.inside.callback(self.model.register_forward_hook(after).remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.inside.close()
        super().__exit__(*error)

    def paired(self, func: Callable[..., Any], given: dict[str, Any]) -> Any:
        """The loss on matching rows; as it was where the sizes do not fit."""
        output, wanted = self.output, given["target"]
        self.blind = self.blind or output is None
        if output is None or wanted.is_floating_point():
            return func(**given)
        if output.shape[-1] != self.classes:
            output = output.transpose(1, 2)
        scores = output.movedim(self.batch_axis, 0)
        samples, positions = scores.shape[:2]
        if wanted.numel() != samples * positions:
            return func(**given)
        if wanted.dim() == 2:
            wanted = wanted if wanted.shape == (samples, positions) else wanted.T
        else:
            wanted = wanted.reshape(positions, samples).T if self.turned else wanted.reshape(samples, positions)
        return func(**given | {"input": scores.reshape(-1, self.classes), "target": wanted.reshape(-1)})


def pair_rows(subject: Subject) -> Subject:
    """The subject whose loss compares each position's scores with that position's target.

    Raises:
        ValueError: the model's output has not three axes, one of them as long as there are classes.
    """
    with open_bench(subject, 0) as bench:
        origin = SCORE_ORIGIN.measure(bench)
    if len(origin.output) != 3 or origin.classes not in origin.output[1:]:
        raise ValueError("the model's output has not three axes with the classes on one; its rows cannot be paired")
    rows_first = any(each.crossed_shift is not None for each in origin.arguments)
    turned = (subject.batch_axis == 1) != rows_first

    with open_bench(subject, 0) as bench, PairedRows(bench.model, subject.batch_axis, origin.classes, turned) as mode:
        bench.loss()
    if mode.blind:
        raise ValueError("the model computes its loss itself; its rows cannot be paired from outside")

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        return nullcontext() if batch is None else PairedRows(model, subject.batch_axis, origin.classes, turned)

    return surrounded(subject, surroundings)


PAIR_ROWS = Intervention(
    name="pair-rows", does="compare each position's scores with that position's target", apply=pair_rows
)
