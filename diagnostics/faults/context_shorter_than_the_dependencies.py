"""What tells the next token lies further back than the model can see.

Shows as:      a loss that rests above what the data allow, whatever model is tried; longer windows lower it at once.
Why it hurts:  what is not in the window cannot be used.
Measured by:   reach-of-context: information between tokens at every distance within the window and up to four windows.
Judged by:     far more information at a distance beyond the window than at any within it, and far beyond chance.
               Grade: sign.
Looks like:    at-the-entropy-floor, position-blind.
Remedy:        windows longer than the distance that is named; or the order of the data, so that what belongs together
               stands together.
Blind spots:   what only several tokens together tell; text where near and far tokens tell about the same, which is
               every natural text: there longer windows help a little and nothing is said here.
Source:        Li 1990, "Mutual information functions versus correlation functions". TIMES: ours.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.reach_of_context import REACH_OF_CONTEXT, ReachOfContext
from diagnostics.subject import Subject

TIMES = 5.0  # as much information beyond the window as within
WORTH = 0.1  # nats
SPREADS = 10.0  # standard deviations of what shuffled text gives


def judge(reach: ReachOfContext) -> Verdict:
    """Present where the text speaks from beyond the window."""
    within, beyond = (max(0.0, each - reach.by_chance) for each in (reach.within, reach.beyond))
    numbers = {"within": within, "beyond": beyond, "context": float(reach.context)}
    seen = (
        f"the window holds {reach.context} tokens; the token {reach.beyond_at} back tells {beyond:.3f} nats about the "
        f"next beyond chance, and the best within the window, {reach.within_at} back, {within:.3f}"
    )
    if beyond < WORTH or beyond < SPREADS * reach.chance_spread:
        return absent(seen, **numbers)
    if beyond >= TIMES * within:
        return present(seen, **numbers)
    return (unclear if beyond >= 2 * within else absent)(seen, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose text repeats the token one and a half windows back most of the time, and is random otherwise.

    Raises:
        ValueError: it has no token view or no text view.
    """
    view, text = subject.token_view, subject.text_view
    if view is None or text is None:
        raise ValueError(f"{subject.name} has no text that could reach beyond its window")
    back = view.targets(next(subject.batches(0))).shape[1] * 3 // 2

    def reaching(stream: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
        generator = torch.Generator().manual_seed(seed)
        drawn = stream[torch.randperm(len(stream), generator=generator)].clone()
        keep = torch.rand(len(stream), generator=generator) < 0.9
        for index in range(back, len(drawn)):
            if keep[index]:
                drawn[index] = drawn[index - back]
        return drawn

    far = replace(text, train_tokens=reaching(text.train_tokens, 0), heldout_tokens=reaching(text.heldout_tokens, 1))
    return replace(subject, text_view=far)


FAULT = Fault(
    id="context-shorter-than-the-dependencies",
    family="data",
    grade="sign",
    concerns="neither",
    repair_rank=95,
    measured_by=(REACH_OF_CONTEXT,),
    judge=judge,
    plant=plant,
    looks_like=("at-the-entropy-floor", "position-blind"),
    wrong="context = 32  # each line refers to the one before, 80 tokens back",
    right="context = 256",
)
