"""Compare every position with the token after the ones that it has read, whatever the loss compares it with."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.interventions.edit_loss import LossEdit
from diagnostics.model_call import argument_names
from diagnostics.probes.score_origin import SCORE_ORIGIN
from diagnostics.subject import Batch, Subject


class ShiftedTargets(LossEdit):
    """While active, the targets of each loss call are replaced by the model's tokens ``ahead`` of each position.

    Args:
        model: whose argument is looked at.
        argument: the name of that argument.
        batch_axis: of the argument.
        ahead: 1 for the next token.
        first: the position whose scores the loss gets first (it may leave some out in front).
    """

    def __init__(self, model: nn.Module, argument: str, batch_axis: int, ahead: int, first: int) -> None:
        super().__init__(self.shifted)
        self.model, self.argument, self.batch_axis = model, argument, batch_axis
        self.ahead, self.first = ahead, first
        self.tokens: Tensor | None = None
        self.inside = ExitStack()

    def __enter__(self) -> "ShiftedTargets":
        name = argument_names(self.model)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.tokens = ({name(i): each for i, each in enumerate(args)} | kwargs).get(self.argument, self.tokens)

        self.inside.callback(self.model.register_forward_pre_hook(before, with_kwargs=True).remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.inside.close()
        super().__exit__(*error)

    def shifted(self, func: Callable[..., Any], given: dict[str, Any]) -> Any:
        """The loss on the tokens ahead; where there are none, and where it left a target out, nothing."""
        wanted, ignored = given["target"], given.get("ignore_index", -100)
        if self.tokens is None or wanted.is_floating_point():
            return func(**given)
        tokens = self.tokens.movedim(self.batch_axis, 0)
        count = wanted.numel() // len(tokens)
        start = self.ahead + self.first
        after = F.pad(tokens, (max(0, -start), max(0, start)), value=ignored)[:, max(0, start) :]
        if wanted.numel() != count * len(tokens) or after.shape[1] < count:
            return func(**given)
        targets = after[:, :count].movedim(0, self.batch_axis)  # samples before positions, or behind them
        targets = targets.reshape(wanted.shape).to(wanted.dtype)
        return func(**given | {"target": targets.masked_fill(wanted == ignored, ignored)})


def next_token_targets(subject: Subject) -> Subject:
    """The subject whose targets are the next tokens of the argument that they are the wrong tokens of.

    Raises:
        ValueError: no argument holds the targets two or more tokens ahead, or behind.
    """
    with open_bench(subject, 0) as bench:
        origin = SCORE_ORIGIN.measure(bench)
    wrong = [each for each in origin.arguments if each.read and each.shift is not None and each.shift not in (0, 1)]
    if not wrong:
        raise ValueError("no argument of the model holds the targets too far ahead or behind; nothing is to be shifted")
    argument = wrong[0].argument

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        if batch is None:
            return nullcontext()
        return ShiftedTargets(model, argument, subject.batch_axis, 1, origin.first)

    return surrounded(subject, surroundings)


NEXT_TOKEN_TARGETS = Intervention(
    name="next-token-targets",
    does="compare every position with the next token",
    apply=next_token_targets,
)
