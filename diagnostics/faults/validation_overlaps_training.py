"""What is held out stands in the training data.

Shows as:      a validation loss that follows the training loss down to nothing; new text costs far more.
Why it hurts:  learning by heart looks like understanding; nothing says when to stop, or which setting is better.
Measured by:   heldout-overlap: held-out rows that are training rows, and runs of held-out tokens among the training
               tokens, beside what two independent samples would share by chance.
Judged by:     a share of equal rows, or of equal runs that go on to the end of what the rows have in common, far above
               chance; or most of the held-out text found in the training text. Grade: proof.
Looks like:    duplicate-data.
Remedy:        split the text, the documents or the ids first, cut into windows and batches afterwards.
Blind spots:   rows that are changed on the way (noise, crops); rows too short or too poor to tell chance from copy;
               held-out data that are in a part of the training data that was not looked at.
Source:        Kapoor and Narayanan 2023, "Leakage and the reproducibility crisis in machine-learning-based science"
               (no test set apart, duplicates across the split). The bounds are ours.
"""

import math
from dataclasses import replace

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.leave_out_training_rows import LEAVE_OUT_TRAINING_ROWS
from diagnostics.probes.heldout_overlap import HELDOUT_OVERLAP, HeldoutOverlap, Runs
from diagnostics.subject import Subject

ROWS = 0.05  # share of held-out rows
RUNS = 0.1  # share of held-out runs
TEXT = 0.5  # share of the held-out text: refrains and headings repeat themselves honestly
ABOVE_CHANCE = 5.0  # times what chance may give, which is bounded at three standard deviations already
SEVERAL = 3
TO_THE_END = 0.9


def judge(overlap: HeldoutOverlap) -> Verdict:
    """Present where more is found than two independent samples share."""
    share = overlap.found / max(1, overlap.heldout_rows)
    chance = rows_by_chance(overlap)
    numbers = {"held-out rows found": share, "by chance at most": chance}
    rows = f"{overlap.found} of {overlap.heldout_rows} held-out rows are among {overlap.train_rows} training rows"
    if overlap.found >= SEVERAL and share >= max(ROWS, ABOVE_CHANCE * chance):
        return present(f"{rows}, value by value (at most {chance:.1%} would be by chance)", **numbers)
    runs, text = overlap.runs, overlap.text_runs
    if runs is not None and is_copied(runs):
        # a text that repeats itself is found again in any part that is kept apart honestly
        repeats = overlap.text_repeats is not None and overlap.text_repeats > runs.found / ABOVE_CHANCE
        return (unclear if repeats else present)(
            f"{runs.found:.0%} of the held-out runs of {runs.length} tokens stand in the training batches "
            f"({runs.by_chance:.1%} would by chance), and {runs.to_the_end:.0%} of these rows agree with the training "
            "row wherever both reach: they are windows of one text",
            **numbers,
        )
    if text is not None and overlap.text_repeats is not None and text.found >= TEXT:
        seen = (
            f"{text.found:.0%} of the held-out text's runs of {text.length} tokens stand in the training text "
            f"({text.by_chance:.1%} would by chance), and {overlap.text_repeats:.0%} of those at its end stand before"
        )
        repeats = overlap.text_repeats > text.found / ABOVE_CHANCE
        return (unclear if repeats else present)(seen, **numbers)
    if overlap.found and share >= ROWS:
        return unclear(f"{rows}, but such rows coincide by themselves in up to {chance:.0%} of all cases", **numbers)
    looked = "" if runs is None else f", and {runs.found:.1%} of runs of {runs.length} tokens"
    return absent(f"{rows}{looked}", **numbers)


def rows_by_chance(overlap: HeldoutOverlap) -> float:
    """Largest share of new rows that equal a training row because such rows coincide, as they do among themselves."""
    alike = overlap.alike + 3 * math.sqrt(overlap.alike + 1)
    return min(1.0, alike / max(1, overlap.pairs) * overlap.train_rows)


def is_copied(runs: Runs) -> bool:
    """Whether the runs are of one text with the training rows."""
    often = runs.found >= max(RUNS, ABOVE_CHANCE * runs.by_chance) and runs.rows >= SEVERAL
    return often and runs.to_the_end >= TO_THE_END


def plant(subject: Subject) -> Subject:
    """The subject whose held-out pass is a pass over its training data."""
    return replace(subject, heldout=subject.batches)


FAULT = Fault(
    id="validation-overlaps-training",
    family="evaluation",
    grade="proof",
    concerns="neither",  # what is left without the rows that are found is another, harder text: no trial
    repair_rank=85,
    measured_by=(HELDOUT_OVERLAP,),
    judge=judge,
    plant=plant,
    remedies=(LEAVE_OUT_TRAINING_ROWS,),
    looks_like=("duplicate-data",),
    wrong="windows = text.unfold(0, 65, 1)  # overlapping\ntrain, val = random_split(windows, [0.9, 0.1])",
    right="train, val = text[:cut], text[cut:]\nwindows = train.unfold(0, 65, 1)",
)
