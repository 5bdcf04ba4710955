"""Let torch's own attentions and recurrences take the other axis for the positions."""

from collections.abc import Iterable

from torch import nn

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.probes.batch_axis import batch_axis
from diagnostics.subject import Subject


def turned(model: nn.Module, names: Iterable[str]) -> None:
    """Flip ``batch_first`` of these modules of the model."""
    for name in names:
        module = model.get_submodule(name)
        module.batch_first = not module.batch_first  # type: ignore[assignment]


def turn_batch_first(subject: Subject) -> Subject:
    """The subject whose mismatched modules, and those of the same setting and kind, take the other axis.

    Raises:
        ValueError: none of them runs along the samples.
    """
    with open_bench(subject, 0) as bench:
        facts = batch_axis(bench)
        kinds = {
            (type(bench.model.get_submodule(n)), bench.model.get_submodule(n).batch_first) for n in facts.over_samples
        }
        names = [
            name
            for name in facts.sequential
            if (type(bench.model.get_submodule(name)), bench.model.get_submodule(name).batch_first) in kinds
        ]
    if not names:
        raise ValueError(f"no attention or recurrence of {subject.name} runs along the samples; nothing to turn")
    return rebuilt(subject, lambda model: turned(model, names))


TURN_BATCH_FIRST = Intervention(
    name="turn-batch-first",
    does="let attention and recurrence run along the positions",
    apply=turn_batch_first,
)
