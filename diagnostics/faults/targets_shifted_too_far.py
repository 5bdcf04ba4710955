"""The model is asked for the token after the next.

Shows as:      a loss well above what the data allows that stands early, and generated text that skips every other
               word.
Why it hurts:  the token in between is neither given nor asked for: what is learned is a guess across a gap, and used
               as if it were the next token.
Measured by:   score-origin: which token of the model's argument each position's target equals.
Judged by:     every target of position t equals token t + k of an argument with k of FAR or FARTHER, and no argument
               holds the next token (k = 1) or the target itself (k = 0). Grade: proof. Larger k may be meant:
               unclear.
Looks like:    at-the-entropy-floor, targets-not-shifted.
Remedy:        shift once: either in the data (inputs x[:-1], targets x[1:]) or in the loss. Models of Hugging Face
               shift ``labels`` themselves: give them the same tokens as ``input_ids``.
Blind spots:   models that are called more than once for a loss, or that return neither scores nor hidden states.
Source:        transformers, ForCausalLMLoss: "Shift so that tokens < n predict n".
"""

from contextlib import AbstractContextManager, nullcontext

from torch import nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.interventions.next_token_targets import NEXT_TOKEN_TARGETS, ShiftedTargets
from diagnostics.probes.score_origin import SCORE_ORIGIN, ArgumentShift, ScoreOrigin
from diagnostics.subject import Batch, Subject

FAR, FARTHER = 2, 3


def judge(origin: ScoreOrigin) -> Verdict:
    """Present where every target lies beyond the next token."""
    found = held(origin)
    if not found:
        return not_tested("no argument of the model holds the targets, shifted or not")
    said = holds(found)
    shifts = [each.shift for each in found if each.shift is not None]
    if min(shifts) < FAR:
        return absent(said)
    numbers = {"tokens ahead": float(min(shifts))}
    if min(shifts) > FARTHER:
        return unclear(f"{said}: so far ahead may be meant", **numbers)
    return present(f"{said}: the next token is skipped", **numbers)


def held(origin: ScoreOrigin) -> list[ArgumentShift]:
    """The arguments that the model reads and that hold the targets."""
    return [each for each in origin.arguments if each.read and each.shift is not None]


def holds(found: list[ArgumentShift]) -> str:
    """Where the targets are, as a clause."""
    return "; ".join(f"the target of position t is token t {each.shift:+d} of {each.argument}" for each in found)


def plant(subject: Subject) -> Subject:
    """The subject whose targets are one token further ahead.

    Raises:
        ValueError: no argument of its model holds the next token.
    """
    return shifted_by(subject, 2)


def shifted_by(subject: Subject, ahead: int) -> Subject:
    """The subject whose positions are compared with the token this far ahead of them.

    Raises:
        ValueError: no argument of its model holds the next token; or another, too, holds its targets.
    """
    with open_bench(subject, 0) as bench:
        origin = SCORE_ORIGIN.measure(bench)
    found = [each for each in origin.arguments if each.shift is not None]
    if [each.shift for each in found] != [1]:
        raise ValueError("not exactly one argument of the model holds the next tokens; what to shift is not clear")

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        if batch is None:
            return nullcontext()
        return ShiftedTargets(model, found[0].argument, subject.batch_axis, ahead, origin.first)

    return surrounded(subject, surroundings)


FAULT = Fault(
    id="targets-shifted-too-far",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=21,
    measured_by=(SCORE_ORIGIN,),
    judge=judge,
    plant=plant,
    remedies=(NEXT_TOKEN_TARGETS,),
    looks_like=("at-the-entropy-floor", "targets-not-shifted"),
    wrong="inputs, labels = tokens[:, :-1], tokens[:, 1:]\n"
    "loss = gpt2(input_ids=inputs, labels=labels).loss  # which shifts labels once more",
    right="loss = gpt2(input_ids=tokens, labels=tokens).loss",
)
