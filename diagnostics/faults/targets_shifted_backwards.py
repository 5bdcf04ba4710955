"""The model is asked for the token before the one that it reads.

Shows as:      a training loss that falls to almost zero, and generated text that repeats itself.
Why it hurts:  the answer has been read already; copying it is all that is learned.
Measured by:   score-origin: which token of the model's argument each position's target equals.
Judged by:     every target of position t equals token t - 1 of an argument, and no argument holds the next token or
               the target itself. Grade: proof. Further back it may be a memory task: unclear.
Looks like:    targets-not-shifted, future-token-leak.
Remedy:        inputs x[:-1], targets x[1:]; logits[:, :-1] against tokens[:, 1:].
Blind spots:   models that are called more than once for a loss, or that return neither scores nor hidden states.
Source:        Bengio et al. 2003: a language model predicts the next word from those before it.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.faults.targets_shifted_too_far import held, holds, shifted_by
from diagnostics.interventions.next_token_targets import NEXT_TOKEN_TARGETS
from diagnostics.probes.score_origin import SCORE_ORIGIN, ScoreOrigin
from diagnostics.subject import Subject


def judge(origin: ScoreOrigin) -> Verdict:
    """Present where every target is the token before."""
    found = held(origin)
    if not found:
        return not_tested("no argument of the model holds the targets, shifted or not")
    said, shifts = holds(found), [each.shift for each in found if each.shift is not None]
    if max(shifts) >= 0:
        return absent(said)
    numbers = {"tokens ahead": float(max(shifts))}
    if max(shifts) < -1:
        return unclear(f"{said}: so far back may be meant, as a test of memory", **numbers)
    return present(f"{said}: it has been read already", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose targets are the tokens before.

    Raises:
        ValueError: no argument of its model holds the next token.
    """
    return shifted_by(subject, -1)


FAULT = Fault(
    id="targets-shifted-backwards",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=21,
    measured_by=(SCORE_ORIGIN,),
    judge=judge,
    plant=plant,
    remedies=(NEXT_TOKEN_TARGETS,),
    looks_like=("targets-not-shifted", "future-token-leak"),
    wrong="loss = F.cross_entropy(logits[:, 1:].flatten(0, 1), tokens[:, :-1].flatten())",
    right="loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())",
)
