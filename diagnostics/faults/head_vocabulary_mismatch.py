"""The model has no room for all ids: its table or its head is smaller than the vocabulary.

Shows as:      "index out of range" or "Target ... is out of bounds"; on a GPU a device-side assert; or, where ids are
               clamped or taken modulo to silence that, a loss that never gets low.
Why it hurts:  ids beyond the end have no vector to be read from and no score to be predicted with.
Measured by:   class-counts: the largest id and target, rows of the table, width of the scores, tokens of the text
               view.
Judged by:     a loss that raises on an id beyond the table or a target beyond the scores; or fewer classes than the
               text view has tokens. Grade: proof. More classes than tokens are harmless padding.
Looks like:    vocabulary-too-large.
Remedy:        take ``vocab_size`` for table and head from the tokenizer, special tokens counted.
Blind spots:   ids that are clamped, without a text view.
Source:        torch.nn.Embedding, ``num_embeddings``.
"""

from dataclasses import replace

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.probes.class_counts import CLASS_COUNTS, ClassCounts
from diagnostics.subject import Subject

MORE = 7  # planted tokens without a score


def judge(counts: ClassCounts) -> Verdict:
    """Present where an id does not fit."""
    numbers = {"classes": float(counts.classes), "largest target": float(counts.largest_target)}
    if counts.failure is not None and counts.table and counts.largest_id >= counts.table:
        return present(
            f"id {counts.largest_id} is looked up in a table of {counts.table} rows: {counts.failure}", **numbers
        )
    if not counts.classes:
        return not_tested("no call of cross_entropy or nll_loss with classes for targets was seen")
    if counts.largest_target >= counts.classes:
        return present(
            f"target {counts.largest_target} is beyond the {counts.classes} classes of the scores", **numbers
        )
    if counts.tokens > counts.classes:
        return present(f"the text has {counts.tokens} tokens, the scores {counts.classes} classes", **numbers)
    more = f", {counts.classes - counts.tokens} more than tokens" if counts.tokens else ""
    return absent(f"targets up to {counts.largest_target} fit into {counts.classes} classes{more}", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose tokenizer has learned more tokens than the model was made for.

    Raises:
        ValueError: it has no text view.
    """
    text = subject.text_view
    if text is None:
        raise ValueError(f"{subject.name} has no text view; there is no tokenizer that could know more tokens")
    more = [bytes([97 + index % 26]) * 2 for index in range(MORE)]
    return replace(subject, text_view=replace(text, token_bytes=[*text.token_bytes, *more]))


FAULT = Fault(
    id="head-vocabulary-mismatch",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=10,
    measured_by=(CLASS_COUNTS,),
    judge=judge,
    plant=plant,
    looks_like=("vocabulary-too-large",),
    wrong="head = nn.Linear(d_model, len(merges))            # bytes and special tokens forgotten",
    right="head = nn.Linear(d_model, tokenizer.vocab_size)",
)
