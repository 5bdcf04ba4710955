"""The loss counts the padding.

Shows as:      a loss that falls fast to a low value and then stands, lower the more padding there is; generated text
               that breaks off.
Why it hurts:  padding after padding is learned in no time and makes the mean look low; gradients of short rows serve
               it instead of the text, and losses of batches with more or less padding do not compare.
Measured by:   padded-targets: ids that fill the ends of rows, and which of those targets have a gradient.
Judged by:     at least SHARE of the targets that count are padding: an id that the token view or an embedding names,
               or one that only ever fills rows up; the first one behind the text may mean its end and is let pass.
               Grade: proof.
Looks like:    needs-more-steps, targets-not-shifted.
Remedy:        ``ignore_index=padding_id`` in cross_entropy, or -100 in the labels where there is padding.
Blind spots:   rows that are all filled to the same length, where nobody names the id; an id that an embedding names
               and that is a token in the middle of rows as well.
Source:        torch.nn.CrossEntropyLoss, ``ignore_index``. SHARE: ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.edit_loss import with_edited_loss
from diagnostics.interventions.ignore_padding import IGNORE_PADDING
from diagnostics.probes.padded_targets import PADDED_TARGETS, Filling, PaddedTargets
from diagnostics.subject import Batch, Subject
from diagnostics.watch import watched_loss

SHARE = 0.01
USED = 0.1  # share of an id's targets inside rows, from which an id that an embedding names is a token like others
PLANTED = 0  # the id that planted padding has


def judge(targets: PaddedTargets) -> Verdict:
    """Present where padding has a gradient."""
    if not targets.rows:
        return not_tested("the targets are not in rows of several positions")
    found = [each for each in targets.fillings if is_padding(each)]
    if not found:
        return absent(
            f"no id is known to be padding among the {targets.counted} targets that count in {targets.rows} rows"
        )
    worst = max(found, key=lambda each: each.beyond_first)
    share = worst.beyond_first / max(1, targets.counted)
    said = f"of {targets.counted} targets that count, {worst.counted} are id {worst.id} at the ends of rows"
    numbers = {"share of padding": share, "padding id": float(worst.id)}
    if share < SHARE:
        return absent(said, **numbers)
    return present(
        f"{said}, which is padding (known from {worst.known_from}): {share:.0%} of the loss's targets", **numbers
    )


def is_padding(filling: Filling) -> bool:
    """Whether this id is a filling and no token like others."""
    everywhere = filling.counted + filling.inside
    return filling.known_from != "an embedding" or filling.inside <= USED * max(1, everywhere)


def plant(subject: Subject) -> Subject:
    """The subject whose loss ignores nothing; where it had nothing to ignore, with rows filled up with one id.

    Raises:
        ValueError: it has neither targets that are left out nor a token view to fill rows with.
    """
    view = subject.token_view
    with open_bench(subject, 0) as bench, torch.no_grad():
        _, watch = watched_loss(subject, bench.model.eval(), bench.batch(0))
    calls = [(call.wanted, call.ignore_index) for call in watch.losses if call.wanted is not None and not call.by_hand]
    if not calls:
        raise ValueError(f"the loss of {subject.name} calls neither cross_entropy nor nll_loss")
    left_out = any(bool(torch.eq(wanted, ignored).any()) for wanted, ignored in calls)
    if left_out and calls[-1][1] >= 0:

        def change(func: Callable[..., Any], given: dict[str, Any]) -> Any:
            return func(**given | {"ignore_index": -100})

        return with_edited_loss(subject, change)
    if view is None or left_out:
        raise ValueError(f"the rows of {subject.name} cannot be filled up: it has no token view, or its own way of it")

    def filled(batch: Batch) -> Batch:
        stream = view.tokens(batch)
        length = stream.shape[1]
        kept = length - torch.arange(len(stream), device=stream.device) % max(2, length // 2)
        beyond = torch.arange(length, device=stream.device)[None] >= kept[:, None]
        return view.with_tokens(batch, stream.masked_fill(beyond, PLANTED))

    def batches(seed: int) -> Iterator[Batch]:
        return map(filled, subject.batches(seed))

    return replace(subject, batches=batches, heldout=None, text_view=None, token_view=replace(view, padding_id=PLANTED))


FAULT = Fault(
    id="padding-counted-in-loss",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=23,
    measured_by=(PADDED_TARGETS,),
    judge=judge,
    plant=plant,
    remedies=(IGNORE_PADDING,),
    looks_like=("needs-more-steps", "targets-not-shifted"),
    wrong="loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
    right="loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=padding_id)",
)
