"""Hide padded keys from every attention over them, and show real ones that a mask hid instead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.interventions.rewrite_attention import RewrittenAttention, fill
from diagnostics.model_call import argument_names
from diagnostics.padding import PaddedArgument, by_sample, filled, looks_back, padded_arguments
from diagnostics.subject import Subject


class PaddingAware(RewrittenAttention):
    """An attention mode that knows which keys are padding; ``padding`` is set by ``aware_of_padding``, call by call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.padding: list[Tensor] = []

    @no_type_check
    def padded_keys(self, scores: Tensor, hidden: Tensor | None) -> Tensor | None:
        """Which keys of these scores are padding, laid out like them; None where that is not known.

        Of several arguments of one length a window that looks back belongs to the last, any other to the first.
        """
        found = [each for each in self.padding if each.shape[1] == scores.shape[-1]]
        if not found:
            return None
        keys = found[-1 if looks_back(hidden) else 0]
        index = torch.arange(scores.numel() // scores.shape[-1], device=scores.device).view(scores.shape[:-1])
        shaped = by_sample(index[..., None], len(keys))
        if shaped is None or not bool(keys.any()):
            return None
        laid = torch.empty((index.numel(), scores.shape[-1]), dtype=torch.bool, device=scores.device)
        laid[shaped.flatten()] = keys[:, None, None].expand(*shaped.shape[:3], -1).flatten(0, 2)
        return laid.view(scores.shape)


@contextmanager
def aware_of_padding(
    mode: PaddingAware, model: nn.Module, arguments: list[PaddedArgument], batch_axis: int
) -> Iterator[PaddingAware]:
    """The mode active, told the padding of every call of the model."""
    name, ids = argument_names(model), {each.name: each.id for each in arguments}

    @no_type_check
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {name(i): each for i, each in enumerate(args)} | kwargs
        tokens = {key: each for key, each in given.items() if key in ids and isinstance(each, Tensor)}
        mode.padding = [filled(each.movedim(batch_axis, 0), ids[key]) for key, each in tokens.items()]

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with mode:
            yield mode
    finally:
        handle.remove()


class HiddenPadding(PaddingAware):
    """While active, no query of an attention over padded keys sees one, unless it sees nothing else."""

    @no_type_check
    def weigh(self, scores: Float[Tensor, "..."], hidden: Bool[Tensor, "..."] | None, axis: int) -> Any:
        """Weights without padding."""
        padded = self.padded_keys(scores, hidden)
        if padded is None:
            return fill(scores, hidden).softmax(axis)
        self.changed += 1
        return fill(scores, without_padding(hidden, padded)).softmax(axis)


@no_type_check
def without_padding(hidden: Tensor | None, padded: Tensor) -> Tensor:
    """A mask that hides padding, too; turned round where it hid every key that is none."""
    if hidden is None or (bool((hidden | padded).all()) and bool((padded & ~hidden).any())):
        hidden = torch.zeros_like(padded)
    joined = hidden | padded
    return torch.where(joined.all(-1, keepdim=True), hidden, joined)


def is_key_mask(hidden: Bool[Tensor, "..."] | None) -> bool:
    """Whether a mask hides the same keys from every query of a sample."""
    return hidden is not None and bool((hidden == hidden[..., :1, :]).all())


def hide_padding(subject: Subject) -> Subject:
    """The subject whose attentions do not see padding.

    Raises:
        ValueError: no argument of its model is padded, or no attention has keys of its length.
    """
    return padding_changed_by(subject, HiddenPadding, "no attention of this subject has padded keys")


def padding_changed_by(subject: Subject, mode: Callable[[nn.Module], PaddingAware], otherwise: str) -> Subject:
    """The subject with every forward pass inside a mode that knows the padding.

    Raises:
        ValueError: nothing is padded, or the mode changes no attention; the message says ``otherwise``.
    """
    with open_bench(subject, 0) as bench:
        arguments = padded_arguments(bench, bench.model.eval())
        if not arguments:
            raise ValueError(f"no argument of the model of {subject.name} is known to be padded")
        with aware_of_padding(mode(bench.model), bench.model, arguments, subject.batch_axis) as aware:
            bench.loss()
    if not aware.changed:
        raise ValueError(otherwise)
    return surrounded(subject, lambda model, batch: aware_of_padding(mode(model), model, arguments, subject.batch_axis))


HIDE_PADDING = Intervention(
    name="hide-padding",
    does="hide the padding from every attention, and nothing else in its place",
    apply=hide_padding,
)
