"""The model finds its answer in what it is given.

Shows as:      a loss below what the data allow, and samples that make no sense.
Why it hurts:  copying is easier than predicting, so nothing else is learned; when text is generated there is no answer
               to copy.
Measured by:   random-token-loss: a fresh model, trained for a few steps on ever new random tokens of a few types, and
               asked for more of them.
Judged by:     a loss below ln of the number of types by a margin and by many standard errors: no model that does not
               see its targets can do that. Grade: proof.
Looks like:    targets-not-shifted, future-token-leak, norm-over-the-wrong-axis, which say by which way.
Remedy:        follow the answer from the batch to the logits: shift the input, mask attention, normalise each position
               by itself, and give the model nothing that is made from the targets.
Blind spots:   leaks that take long to learn, as through attention, or that carry little; a source made from the same
               tokens may tell them honestly, and is let pass. Where the way is known, it has an entry of its own; there
               is no generic planting, and no remedy that fits them all.
Source:        ours: the cross-entropy of independent uniform tokens is at least ln of their number. MARGIN: ours;
               healthy models end above the bound or within one standard error below.
"""

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.random_token_loss import RANDOM_TOKEN_LOSS, RandomTokenLoss

MARGIN = 0.03  # of the bound
ERRORS = 6.0
LEARNED = 0.15  # of the bound above it: the frequencies are learned, and a quick leak would have been


def judge(random: RandomTokenLoss) -> Verdict:
    """Present where the unpredictable is predicted."""
    numbers = {"loss": random.loss, "bound": random.bound, "error": random.error}
    seen = (
        f"after {random.steps} steps on fresh random tokens of {random.kinds} types the loss on new ones is "
        f"{random.loss:.3f} (error {random.error:.3f}); without seeing them none can be below {random.bound:.3f}"
    )
    below = random.bound - random.loss
    if below > MARGIN * random.bound and below > ERRORS * random.error:
        if random.source_follows:
            return unclear(f"{seen}; but an input that may be read whole is made from the same tokens", **numbers)
        return present(seen, **numbers)
    if -below > LEARNED * random.bound:
        return unclear(f"{seen}; it has not even learned their frequencies", **numbers)
    return absent(seen, **numbers)


FAULT = Fault(
    id="answer-leaks-into-the-input",
    family="data",
    grade="proof",
    concerns="neither",
    repair_rank=39,
    measured_by=(RANDOM_TOKEN_LOSS,),
    judge=judge,
    follows_from=("targets-not-shifted", "future-token-leak", "norm-over-the-wrong-axis", "batch-coupling"),
    looks_like=("targets-not-shifted", "future-token-leak", "norm-over-the-wrong-axis"),
    wrong="hidden = model(inputs, summary=targets.float().mean())  # made from the answer",
    right="hidden = model(inputs)",
)
