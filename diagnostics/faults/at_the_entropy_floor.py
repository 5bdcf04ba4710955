"""The loss stands where the data ends: there is nothing more to learn from it.

Shows as:      a loss that stands still at the entropy of the next token, in training and on new text alike.
Why it hurts:  it does not; no model can do better on this data, and no repair will move the loss.
Measured by:   entropy-floor: what earlier tokens tell about the next; loss-curve: where the loss stands.
Judged by:     earlier tokens tell nothing beyond chance (floor: unigram entropy), or nothing beyond the current token
               (floor: H(next | current)), and the loss stands at that floor. Grade: explanation.
Looks like:    needs-more-steps, softmax-before-cross-entropy, learning-rate-too-low.
Remedy:        none is needed; other data, or a longer context if the dependence is there and out of reach.
Blind spots:   dependence that reaches further back than eight tokens, or that takes more than two tokens together to
               see; large vocabularies, where counting does not decide.
Source:        Shannon 1948 (entropy of a source); Miller 1955 (bias of counted entropies). BEYOND_CHANCE, AT, NEAR:
               ours. On independent tokens (23 to 8,063 types) no lag exceeds 2.4 standard deviations of the shuffled
               ones; on English text at 8,063 raw merges the first lag exceeds them 97 times.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from diagnostics.bench import random_tokens
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.entropy_floor import ENTROPY_FLOOR, EntropyFloor, Information
from diagnostics.probes.loss_curve import LOSS_CURVE, LossCurve
from diagnostics.subject import Batch, LossHistory, Subject

BEYOND_CHANCE = 5.0  # standard deviations of the shuffled information
THIN = 0.1  # nats of correction above which a counted entropy decides nothing
AT = 0.02  # nats
NEAR = 0.1  # nats
PLANTED = 211


def judge(floor: EntropyFloor, curve: LossCurve) -> Verdict:
    """Present where the loss stands at the floor that counting finds."""
    numbers = {"standing": curve.standing, "unigram": floor.unigram, "H(next | current)": floor.bigram}
    strongest = max(floor.information, key=in_spreads, default=None)
    beyond = floor.beyond_current if is_told(floor.beyond_current) else None
    if not is_told(strongest) and beyond is None:
        told = "earlier tokens tell nothing about the next beyond chance"
        return at_floor("unigram entropy", floor.unigram, floor.unigram_correction, told, curve, numbers)
    clearest = max((i for i in (strongest, beyond) if i is not None), key=in_spreads)
    told = f"earlier tokens tell {clearest.excess:.3f} nats about the next ({in_spreads(clearest):.0f} times chance)"
    stands = f"the loss stands at {curve.standing:.4f}"
    if curve.standing > floor.unigram + AT:
        return absent(f"{told}; {stands}, above even the unigram entropy {floor.unigram:.4f}", **numbers)
    if floor.bigram_correction > THIN:
        return unclear(f"{told}; {floor.stretches} stretches are too few to count pairs of tokens", **numbers)
    if beyond is None:
        told += ", and the one before the current token nothing more"
        return at_floor("H(next | current)", floor.bigram, floor.bigram_correction, told, curve, numbers)
    deeper = floor.bigram - beyond.excess
    told += f", and two of them bring the floor to {deeper:.4f} or lower"
    if curve.standing > deeper + NEAR:
        return absent(f"{told}; {stands}", **numbers)
    return unclear(f"{told}; {stands}, where counting does not reach", **numbers)


def is_told(information: Information | None) -> bool:
    """Whether it is more than chance."""
    return information is not None and in_spreads(information) >= BEYOND_CHANCE


def at_floor(
    name: str, nats: float, correction: float, told: str, curve: LossCurve, numbers: dict[str, float]
) -> Verdict:
    """The verdict once the floor is known."""
    distance = curve.standing - nats
    because = f"{told}; the loss stands at {curve.standing:.4f}, {distance:+.4f} from the {name} {nats:.4f}"
    error = 2 * curve.spread / math.sqrt(max(1, curve.finite // 10))
    if correction > THIN:
        return unclear(f"{because}, which is uncertain by {correction:.2f}", **numbers)
    if abs(distance) <= AT + error:
        return present(because, **numbers)
    return (unclear if abs(distance) <= NEAR else absent)(because, **numbers)


def in_spreads(information: Information) -> float:
    """Nats beyond chance, in standard deviations of what chance gives."""
    spread = information.chance_spread
    return information.excess / spread if spread > 0 else math.copysign(math.inf, information.excess or -1.0)


def plant(subject: Subject) -> Subject:
    """The subject with independent, uniformly random tokens and a curve that stands at their entropy.

    Raises:
        ValueError: the subject has no token view.
    """
    view = subject.token_view
    if view is None:
        raise ValueError(f"{subject.name} has no token view; its data cannot be replaced by random tokens")

    def batches(seed: int) -> Iterator[Batch]:
        for index, batch in enumerate(subject.batches(seed)):
            stream = view.tokens(batch)
            yield view.with_tokens(batch, random_tokens(view, stream, 100_003 * seed + index))

    noise = 0.01 * torch.randn(PLANTED, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    losses = (math.log(view.vocab_size) + noise).tolist()
    return replace(subject, batches=batches, heldout=None, text_view=None, history=LossHistory(losses=tuple(losses)))


FAULT = Fault(
    id="at-the-entropy-floor",
    family="data",
    grade="explanation",
    concerns="fit",
    repair_rank=98,
    measured_by=(ENTROPY_FLOOR, LOSS_CURVE),
    judge=judge,
    plant=plant,
    looks_like=("needs-more-steps", "softmax-before-cross-entropy", "learning-rate-too-low"),
    wrong="stream = torch.randint(vocab_size, (100_000,))  # nothing to learn but ln(vocab_size)",
    right="stream = torch.tensor(tokenizer.encode(text))",
)
