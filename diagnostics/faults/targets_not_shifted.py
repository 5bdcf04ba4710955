"""The model is given the very tokens that it must predict.

Shows as:      a training loss that falls to almost zero (often below what the data allows within a few steps), and
               generated text that makes no sense: when text is generated there is no answer to copy.
Why it hurts:  copying the input is the easiest way to a low loss, so nothing else is learned.
Measured by:   token-influence: edit one token of an argument that holds the targets, watch that position's logits.
Judged by:     an argument that holds target i at position i (or earlier) and moves the logits of that very target,
               with attention masked and normalisation over positions set aside. Grade: proof.
Looks like:    future-token-leak, norm-over-the-wrong-axis, duplicate-data.
Remedy:        give the decoder the targets shifted by one, behind a start token; compare logits[:, t] with the token
               after the ones that position t has read.
Blind spots:   models without a token view; masked language models and copy tasks, whose targets are their input on
               purpose (give them a token view that leaves the source alone); where even with attention masked later
               tokens move the logits too, the two leaks cannot be told apart.
Source:        Vaswani et al. 2017, section 3.1: "the output embeddings are offset by one position". Rounding: 1e-9 in
               double and 1e-4 in single precision, three digits above either.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.intervention import surrounded
from diagnostics.interventions.shift_decoder_input import SHIFT_DECODER_INPUT, before_targets
from diagnostics.model_call import call_arguments, edited_arguments
from diagnostics.probes.token_influence import STREAM, TOKEN_INFLUENCE, SourceInfluence, TokenInfluence
from diagnostics.subject import Batch, Subject


def judge(influence: TokenInfluence) -> Verdict:
    """Present where a source that holds the targets moves their own logits without attention's help."""
    if not influence.sources:
        return not_tested("neither an argument of the model nor the token stream is a shifted copy of the targets")
    arguments = [source for source in influence.sources if source.source != STREAM]
    suspects = [s for s in arguments if s.shift <= 0] or [s for s in influence.sources if not arguments]
    for source in suspects:
        if source.masked.own > influence.rounding:
            return verdict_on(source, influence.rounding)
    if not any(source.plain.earlier > influence.rounding for source in influence.sources):
        return unclear("no edited token moves any logits: the input does not reach the output")
    own = max((source.plain.own for source in suspects), default=0.0)
    if own > influence.rounding:
        return absent(
            f"targets move their own logits by {own:.2g} standard deviations, but only through attention or a "
            "normalisation over positions",
            own=own,
        )
    holds = "; ".join(f"{s.source} holds target i - {s.shift} at position i" for s in influence.sources)
    return absent(f"no target moves its own logits ({holds})", own=own)


def verdict_on(source: SourceInfluence, rounding: float) -> Verdict:
    """Present, or unclear where later targets move the logits as well although attention is masked."""
    own, later = source.masked.own, source.masked.later
    if later > rounding:
        return unclear(
            f"editing a target in {source.source} moves its own logits by {own:.2g} and earlier ones by {later:.2g} "
            "standard deviations even with attention masked: the sequence is mixed by something else",
            own=own,
            later=later,
        )
    shifts = "the targets themselves" if source.shift == 0 else f"target i - {source.shift} at position i"
    return present(
        f"{source.source} holds {shifts}: editing one moves the logits that predict it by {own:.2g} standard "
        f"deviations (the tokens before it by at most {source.masked.earlier:.2g})",
        own=own,
        earlier=source.masked.earlier,
        shift=float(source.shift),
    )


def plant(subject: Subject) -> Subject:
    """The subject whose model gets the targets wherever it got the tokens before them.

    Raises:
        ValueError: it has no token view, or no argument of its model holds the tokens before the targets.
    """
    view, axis = subject.token_view, subject.batch_axis
    if view is None:
        raise ValueError("this subject has no token view; what its model is given cannot be told from its targets")

    def surroundings(model: nn.Module, batch: Batch | None) -> AbstractContextManager[object]:
        if batch is None:
            return nullcontext()
        before, targets = before_targets(view, batch), view.targets(batch)

        def edit(name: str, value: Tensor) -> Tensor:
            given = value.movedim(axis, 0) if value.dim() == 2 else value
            return targets.movedim(0, axis) if torch.equal(given, before) else value

        return edited_arguments(model, edit)

    with open_bench(subject, 0) as bench:
        batch = bench.batch(0)
        given = call_arguments(bench.model, lambda: view.logits(bench.model, batch))
        before = before_targets(view, batch).movedim(0, axis)
    if not any(torch.equal(value, before) for value in given.values()):
        raise ValueError(f"none of the model's arguments ({', '.join(given)}) holds the tokens before the targets")
    return surrounded(subject, surroundings)


FAULT = Fault(
    id="targets-not-shifted",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=20,
    measured_by=(TOKEN_INFLUENCE,),
    judge=judge,
    plant=plant,
    remedies=(SHIFT_DECODER_INPUT,),
    follows_from=("targets-shifted-backwards",),
    looks_like=("future-token-leak", "norm-over-the-wrong-axis"),
    wrong="logits = model(source, targets)\nloss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
    right="logits = model(source, previous_tokens)  # previous_tokens[:, t] comes before targets[:, t]\n"
    "loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())",
)
