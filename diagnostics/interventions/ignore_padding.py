"""Leave padding out of the loss."""

from collections.abc import Callable
from typing import Any

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.probes.padded_targets import PADDED_TARGETS
from diagnostics.subject import Subject


def ignore_padding(subject: Subject) -> Subject:
    """The subject whose loss leaves out targets that are padding.

    Raises:
        ValueError: no padding is among its targets.
    """
    with open_bench(subject, 0) as bench:
        found = [each.id for each in PADDED_TARGETS.measure(bench).fillings if each.beyond_first]
    if not found:
        raise ValueError("no padding is among the targets that count; there is nothing to leave out")

    def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
        wanted, ignored = given["target"], given.get("ignore_index", -100)
        if wanted.is_floating_point():
            return func(**given)
        for padding in found:
            wanted = wanted.masked_fill(wanted == padding, ignored)
        return func(**given | {"target": wanted})

    return with_edited_loss(subject, change)


IGNORE_PADDING = Intervention(
    name="ignore-padding", does="leave targets that are padding out of the loss", apply=ignore_padding
)
