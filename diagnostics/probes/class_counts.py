"""Whether more than one class occurs among the targets, and which ids the model has room for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.model_call import tensors_in
from diagnostics.probe import Probe
from diagnostics.watch import LOSS_ARGUMENTS, LOSSES, TorchCalls

BATCHES = 50


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Targets and ids.

    Args:
        classes: width of the scores; 0 where no classification loss was seen.
        batches: looked at, one after the other until there were two classes.
        truncated: whether there are more of them.
        targets: in them, ignored ones left out.
        distinct: different classes among them.
        most_common: the commonest class.
        largest_target: among the first batch's targets; -1 without any.
        largest_id: the largest id that an embedding was asked for; -1 without any.
        table: rows of that embedding; 0 without one.
        tokens: different tokens of the text view; 0 without one.
        whole_data: whether the subject's batches are all of its data.
        is_stream: whether targets are tokens of a stream, which nobody sorts by class.
        failure: what the loss raised, in one line.
    """

    classes: int = 0
    batches: int = 0
    truncated: bool = False
    targets: int = 0
    distinct: int = 0
    most_common: int = -1
    largest_target: int = -1
    largest_id: int = -1
    table: int = 0
    tokens: int = 0
    whole_data: bool = True
    is_stream: bool = False
    failure: str | None = None


class SizeWatch(TorchCalls):
    """Notes, before each call, ids and sizes of embeddings and of classification losses."""

    def __init__(self) -> None:
        super().__init__()
        self.largest_id, self.table, self.largest_target, self.classes = -1, 0, -1, 0
        self.targets: list[Tensor] = []
        self.ignored = -100

    @no_type_check  # called for every torch function, and the checks call some themselves
    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look first: the call may raise."""
        if func is F.embedding:
            given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
            largest = int(given["input"].max()) if given["input"].numel() else -1
            if largest - given["weight"].shape[0] > self.largest_id - max(1, self.table) or not self.table:
                self.largest_id, self.table = largest, given["weight"].shape[0]
        elif func in LOSSES:
            given = dict(zip(LOSS_ARGUMENTS, args, strict=False)) | kwargs
            scores, wanted = given["input"], given["target"]
            if not wanted.is_floating_point():
                self.ignored = given.get("ignore_index", -100)
                kept = wanted[wanted != self.ignored]
                self.targets.append(wanted.detach())
                self.largest_target = max(self.largest_target, int(kept.max()) if kept.numel() else -1)
                self.classes = scores.shape[1 if scores.dim() > 1 else 0]
        return func(*args, **kwargs)


def class_counts(bench: Bench) -> ClassCounts:
    """Classes among the targets, batch by batch until there are two, and the sizes that ids must fit into."""
    subject, failure = bench.subject, None
    model = bench.model.eval()
    with torch.no_grad(), SizeWatch() as watch:
        try:
            bench.loss(model)
        except (IndexError, RuntimeError, ValueError) as error:
            failure = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not watch.targets:
        return ClassCounts(largest_id=watch.largest_id, table=watch.table, failure=failure)
    place = place_of(watch.targets[-1], bench.batch(0))
    seen, looked, truncated = list(watch.targets), 1, False
    if failure is None:
        for looked, batch in enumerate(subject.batches(bench.seed), start=1):
            if kinds(seen, watch.ignored) > 1 or looked > BATCHES:
                truncated = looked > BATCHES
                break
            seen.extend(targets_of(bench, model, batch, place))
    every = torch.cat([each.flatten() for each in seen])
    every = every[every != watch.ignored]
    types, counts = torch.unique(every, return_counts=True)
    text = subject.text_view
    return ClassCounts(
        classes=watch.classes,
        batches=looked,
        truncated=truncated,
        targets=len(every),
        distinct=len(types),
        most_common=int(types[counts.argmax()]) if len(types) else -1,
        largest_target=watch.largest_target,
        largest_id=watch.largest_id,
        table=watch.table,
        tokens=0 if text is None else len(text.token_bytes),
        whole_data=subject.whole_data,
        is_stream=subject.token_view is not None,
        failure=failure,
    )


def kinds(seen: list[Tensor], ignored: int) -> int:
    """How many different classes were seen."""
    every = torch.cat([each.flatten() for each in seen])
    return len(torch.unique(every[every != ignored]))


def place_of(targets: Shaped[Tensor, "..."], batch: Any) -> int | None:
    """Which tensor of a batch holds these targets; None where none does."""
    return next((i for i, each in enumerate(tensors_in(batch)) if same_numbers(each, targets)), None)


def targets_of(bench: Bench, model: nn.Module, batch: Any, place: int | None) -> list[Tensor]:
    """A batch's targets: its tensor at a known place, or what the loss compares with."""
    if place is not None:
        return list(tensors_in(batch))[place : place + 1]
    with torch.no_grad(), SizeWatch() as watch:
        bench.subject.loss(model, batch)
    return watch.targets


def same_numbers(one: Shaped[Tensor, "..."], other: Shaped[Tensor, "..."]) -> bool:
    """Whether two tensors of whole numbers hold the same numbers in the same order."""
    if one.is_floating_point() or one.numel() != other.numel():
        return False
    return torch.equal(one.flatten().long().cpu(), other.flatten().long().cpu())


CLASS_COUNTS = Probe(
    name="class-counts",
    question="Which classes occur as targets, and do ids fit into the model?",
    measure=class_counts,
)
