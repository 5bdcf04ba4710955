"""Text is drawn from a nearly uniform distribution, whatever was learned.

Shows as:      samples that are noise with every token equally often, although the loss is low.
Why it hurts:  a softmax of probabilities spans a factor of e at most; what the model knows does not reach the text.
Measured by:   generation-agreement: whether the scores that are softmaxed for sampling are probabilities already, and
               by which temperature they differ from the training path's logits.
Judged by:     scores that are probabilities; a temperature above FLAT and no other difference; or a sampled entropy
               next to uniform where the model's own is far below. Grade: proof.
Looks like:    generation-differs-from-training, softmax-before-cross-entropy.
Remedy:        softmax once: torch.multinomial takes probabilities, Categorical(logits=...) takes logits; divide logits
               by a temperature of about one, and do not multiply.
Blind spots:   subjects that give no next_logits; greedy choices, which a temperature does not change.
Source:        ours. With V = 8063 the softmax of a one-hot row has an entropy of 8.99496 of 8.99504 nats. SUM_ERROR as
               in softmax-before-cross-entropy.
"""

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict, absent, present
from diagnostics.faults.generation_differs_from_training import are_probabilities, figures
from diagnostics.interventions.generate_as_trained import GENERATE_AS_TRAINED
from diagnostics.probes.generation_agreement import GENERATION_AGREEMENT, Agreement, GenerationAgreement
from diagnostics.subject import Subject

FLAT = 10.0  # temperature; the usual ones are between 0.5 and 2
ALONE = 1e-3  # standard deviations of the logits that a pure temperature may be off by
NEARLY, FAR_BELOW = 0.98, 0.8  # of ln V


def judge(agreement: GenerationAgreement) -> Verdict:
    """Present where sampling flattens what the model says."""
    both = (agreement.standing, agreement.fresh)
    numbers = {f"{each.model} {name}": value for each in both for name, value in figures(each).items()}
    for each in both:
        why = flattened(each)
        if why:
            return present(f"{why} (the {each.model} model)", **numbers)
    standing = agreement.standing
    return absent(
        f"the sampled distribution's entropy is {standing.entropy:.4f} and the model's own "
        f"{standing.raw_entropy:.4f} of {standing.uniform:.4f} nats",
        **numbers,
    )


def flattened(agreement: Agreement) -> str:
    """How the distribution is made flat; empty where it is not."""
    entropies = (
        f"what is sampled has an entropy of {agreement.entropy:.4f} of {agreement.uniform:.4f} nats, the model's own "
        f"{agreement.raw_entropy:.4f}"
    )
    if are_probabilities(agreement):
        return f"the scores are probabilities already and are softmaxed again: {entropies}"
    temperature, besides = agreement.temperature, agreement.besides
    if temperature is not None and besides is not None and temperature >= FLAT and besides <= ALONE:
        return f"the logits are divided by {temperature:.3g} before sampling: {entropies}"
    if agreement.entropy >= NEARLY * agreement.uniform and agreement.raw_entropy <= FAR_BELOW * agreement.uniform:
        return f"sampling is nearly uniform: {entropies}"
    return ""


def plant(subject: Subject) -> Subject:
    """The subject that takes probabilities for logits when it generates.

    Raises:
        ValueError: it does not say how it generates.
    """
    view = subject.token_view
    if view is None or view.next_logits is None:
        raise ValueError(f"{subject.name} does not say how it generates")

    def noisy(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        assert view.next_logits is not None
        return view.next_logits(model, tokens).softmax(-1)

    return replace(subject, token_view=replace(view, next_logits=noisy))


FAULT = Fault(
    id="generates-uniform-tokens",
    family="evaluation",
    grade="proof",
    concerns="honesty",
    repair_rank=79,
    measured_by=(GENERATION_AGREEMENT,),
    judge=judge,
    plant=plant,
    remedies=(GENERATE_AS_TRAINED,),
    follows_from=("softmax-before-cross-entropy",),
    looks_like=("generation-differs-from-training", "softmax-before-cross-entropy"),
    wrong="probabilities = model(tokens)[:, -1].softmax(-1)\n"
    "token = torch.distributions.Categorical(logits=probabilities).sample()",
    right="logits = model(tokens)[:, -1]\ntoken = torch.distributions.Categorical(logits=logits).sample()",
)
