"""Every training step sees the same batch.

Shows as:      a training loss that goes to zero in no time, and a validation loss that rises from the start.
Why it hurts:  the model learns one batch by heart and never meets the rest of the data.
Measured by:   passes: the batches of a pass, compared by value with each other, with other passes, and with how much
               text and held-out data there is.
Judged by:     a pass of equal batches where other passes, the training text or the held-out rows show that there is
               more than this batch. Grade: proof.
Looks like:    duplicate-data, unshuffled-batches.
Remedy:        make the iterator once and draw from it, ``for batch in loader``; not next(iter(loader)) in every step.
Blind spots:   a data set that fits into one batch looks the same: without a sign of more data nothing is said. What is
               planted cannot be taken back from outside: data that never come cannot be made up.
Source:        ours.
"""

from collections.abc import Iterator
from dataclasses import replace

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.probes.passes import PASSES_PROBE, Passes
from diagnostics.subject import Batch, Subject

SEVERAL = 3  # equal batches in a row; two may be chance in a tiny data set
MORE = 2  # times as much data as the batch holds, to be sure that it is not all of it


def judge(passes: Passes) -> Verdict:
    """Present where a pass repeats one batch although there is more."""
    if not passes.whole:
        return not_tested("the batches are a sample of the data; nothing follows from their repetition")
    numbers = {"batches": float(passes.batches), "different batches": float(passes.distinct)}
    alone = passes.batches == 1 and passes.passes_alike and not passes.later_rows
    if passes.distinct > 1 or not (alone or passes.in_a_row >= SEVERAL):
        return absent(f"{passes.distinct} of the {passes.batches} first batches of a pass are different", **numbers)
    seen = (
        f"each of three passes holds one batch, always the same {passes.rows} rows"
        if alone
        else f"all of the first {passes.batches} batches of a pass are the same {passes.rows} rows"
    )
    why = more(passes)
    if why:
        return present(f"{seen}, although {why}", **numbers)
    return unclear(f"{seen}; nothing shows that there are more data, so this may be all of them", **numbers)


def more(passes: Passes) -> str:
    """What shows that the data hold more than the batch; empty if nothing does."""
    if passes.later_rows:
        return "another pass has other rows"
    if passes.text_tokens and passes.batch_tokens and passes.text_tokens > MORE * passes.batch_tokens:
        return f"the training text has {passes.text_tokens} tokens and the batch {passes.batch_tokens}"
    if passes.heldout_rows and passes.heldout_rows >= MORE * passes.rows:
        return f"even what is held out has {passes.heldout_rows} different rows"
    return ""


def plant(subject: Subject) -> Subject:
    """The subject whose passes hold their first batch again and again."""

    def batches(seed: int) -> Iterator[Batch]:
        first = next(subject.batches(0))
        for _ in subject.batches(seed):
            yield first

    return replace(subject, batches=batches)


FAULT = Fault(
    id="same-batch-again-and-again",
    family="data",
    grade="proof",
    concerns="neither",
    repair_rank=90,
    measured_by=(PASSES_PROBE,),
    judge=judge,
    plant=plant,
    looks_like=("duplicate-data", "unshuffled-batches"),
    wrong="for step in range(steps):\n    batch = next(iter(loader))  # starts anew every time",
    right="for batch in loader:\n    step_on(batch)",
)
