"""What is held out is of another kind than what is trained on.

Shows as:      a validation loss that starts far above the training loss and stays there, or is far too good.
Why it hurts:  the model is asked for something that it was never shown: another scale, other tokens, other classes.
Measured by:   heldout-overlap: token frequencies, or means and standard deviations of the inputs, of held-out and
               training batches.
Judged by:     token frequencies apart by two fifths, and by far more than two parts of the training data are;
               or inputs shifted by a standard deviation and more, or scaled by three and more. Grade: sign.
Looks like:    validation-overlaps-training.
Remedy:        one preprocessing function and one tokenizer for both; split at random where rows are independent.
Blind spots:   shifts of single features; a held-out part that is meant to be of another kind.
Source:        ours: two parts of one text differ by sampling alone, inputs of one kind by a few standard errors.
"""

from collections.abc import Iterator
from dataclasses import replace

from jaxtyping import Int
from torch import Tensor

from diagnostics.batch_rows import refuse_unless_rows, row_parts
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.probes.heldout_overlap import HELDOUT_OVERLAP, HeldoutOverlap
from diagnostics.subject import Batch, Subject

ELSEWHERE = 0.4  # total variation of token frequencies
TIMES_WITHIN = 3.0  # what two parts of the training data differ by
SHIFT, ERRORS = 1.0, 10.0  # standard deviations; standard errors
SCALE = 3.0
FOLDED = 7  # planted: ids that become one, as in another tokenizer's smaller vocabulary


def judge(overlap: HeldoutOverlap) -> Verdict:
    """Present where frequencies or numbers are far apart."""
    shift, within = overlap.token_shift, overlap.token_shift_within
    if shift is not None and within is not None:
        seen = (
            f"the token frequencies of held-out and training batches differ by {shift:.2f} of 1; two parts of the "
            f"training batches by {within:.2f}"
        )
        numbers = {"token shift": shift, "token shift within training": within}
        apart = shift >= ELSEWHERE and shift >= TIMES_WITHIN * within
        return (present if apart else absent)(seen, **numbers)
    mean, error, scale = overlap.mean_shift, overlap.mean_shift_error, overlap.scale_ratio
    if mean is None or error is None or scale is None:
        return not_tested("the inputs are neither tokens nor floating-point numbers of one shape")
    seen = (
        f"the held-out inputs are shifted by {mean:+.2f} standard deviations (error {error:.2f}) and {scale:.3g} times "
        "as wide as the training inputs"
    )
    apart = (abs(mean) >= SHIFT and abs(mean) >= ERRORS * error) or not 1 / SCALE < scale < SCALE
    return (present if apart else absent)(seen, shift=mean, scale=scale)


def plant(subject: Subject) -> Subject:
    """The subject whose held-out tokens are numbered otherwise, or whose held-out inputs are not normalised.

    Raises:
        ValueError: it holds nothing out, or its inputs are neither tokens nor numbers in the first place of a tuple.
    """
    heldout, view, axis = subject.heldout, subject.token_view, subject.batch_axis
    if heldout is None:
        raise ValueError(f"{subject.name} holds nothing out")
    refuse_unless_rows(next(heldout(0)), axis)

    def renumbered(tokens: Int[Tensor, "batch stream"]) -> Int[Tensor, "batch stream"]:
        return tokens // FOLDED

    def batches(seed: int) -> Iterator[Batch]:
        for batch in heldout(seed):
            if view is not None:
                yield view.with_tokens(batch, renumbered(view.tokens(batch)))
            else:
                yield (batch[0] * 255, *batch[1:])

    numbers = view is None and isinstance(next(heldout(0)), tuple) and row_parts(next(heldout(0)), axis)
    if view is None and not (numbers and numbers[0].is_floating_point()):
        raise ValueError(f"{subject.name} has inputs that are neither tokens nor numbers")
    return replace(subject, heldout=batches)


FAULT = Fault(
    id="train-and-validation-from-different-distributions",
    family="evaluation",
    grade="sign",
    concerns="neither",
    repair_rank=86,
    measured_by=(HELDOUT_OVERLAP,),
    judge=judge,
    plant=plant,
    follows_from=("vocabulary-too-large", "whole-sentences-as-tokens"),
    looks_like=("validation-overlaps-training",),
    wrong="train_images = images / 255\nval_images = val_images  # still 0 ... 255",
    right="def prepared(images):\n    return images / 255\n\n\n"
    "train_images, val_images = prepared(images), prepared(val_images)",
)
