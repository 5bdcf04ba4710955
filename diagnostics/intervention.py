"""Interventions change: a named change to a subject that leaves the subject itself alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.copies import model_copy
from diagnostics.subject import Batch, Subject

Surroundings = Callable[[nn.Module, Batch | None], AbstractContextManager[object]]
"""What is switched on around every forward pass: hooks on the model, a torch function mode. The batch is None while
text is generated or the user's own evaluation runs."""


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """A named change to a subject; planting a fault and removing one are two roles of it.

    Args:
        name: the file name with hyphens.
        does: what is changed, as a phrase that completes "we ...".
        apply: takes a subject and gives a new one; never touches its argument. Raises ValueError with the reason
            where this subject cannot be changed so.
        needs: capabilities of the subject.
    """

    name: str
    does: str
    apply: Callable[[Subject], Subject]
    needs: tuple[str, ...] = ()


def surrounded(subject: Subject, surroundings: Surroundings) -> Subject:
    """The subject with every forward pass (loss, step, evaluation, logits, generation) run inside a context manager."""

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        with surroundings(model, batch):
            return subject.loss(model, batch)

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Float[Tensor, ""]:
        assert subject.step is not None
        with surroundings(model, batch):
            return subject.step(model, optimizer, batch)

    def evaluate(model: nn.Module) -> float:
        assert subject.evaluate is not None
        with surroundings(model, None):
            return subject.evaluate(model)

    inside = replace(
        subject,
        loss=loss,
        step=None if subject.step is None else step,
        evaluate=None if subject.evaluate is None else evaluate,
    )
    view = subject.token_view
    if view is None:
        return inside

    def logits(model: nn.Module, batch: Batch) -> Float[Tensor, "batch time vocab"]:
        with surroundings(model, batch):
            return view.logits(model, batch)

    def next_logits(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        assert view.next_logits is not None
        with surroundings(model, None):
            return view.next_logits(model, tokens)

    changed = replace(view, logits=logits, next_logits=None if view.next_logits is None else next_logits)
    return replace(inside, token_view=changed)


def rebuilt(subject: Subject, change: Callable[[nn.Module], nn.Module | None]) -> Subject:
    """The subject with a change made to every model that it builds, and to a copy of the one it has.

    ``change`` edits the model in place and returns None, or returns another model.
    """

    def changed(model: nn.Module) -> nn.Module:
        result = change(model)
        return model if result is None else result

    build = subject.build
    return replace(
        subject,
        model=changed(model_copy(subject.model)),
        build=None if build is None else lambda seed: changed(build(seed)),
    )
