"""Text is generated from another distribution than the one that was trained.

Shows as:      samples that are much worse than the loss promises; with a second softmax, uniform noise whatever was
               learned.
Why it hurts:  what training improves is not what is used.
Measured by:   generation-agreement: the next token's distribution as generated, beside the training path's at its
               last position for the same context.
Judged by:     two generation calls on one context that differ; scores that already are probabilities; or, without
               dropout and before a last softmax, log-probabilities that differ by more than DIFFERS standard deviations
               of the logits, where the training path does not know its target. Grade: proof.
Looks like:    targets-not-shifted, future-token-leak: with a leak, samples are bad although both paths agree;
               softmax-before-cross-entropy, where what the model returns is sampled from in the same way.
Remedy:        call the same forward in both, in eval mode; take the last position's logits; apply softmax once.
Blind spots:   subjects that give no next_logits; contexts of another length than in training; a training path that
               leaks at its last position cannot be compared. No outside remedy: only the user can call it otherwise.
Source:        ours. DIFFERS: 1e-3, far above rounding in either precision and far below the 0.1 to 3 of paths that
               read other inputs; TEMPERATURE: what people sample at. SUM_ERROR as in softmax-before-cross-entropy.
"""

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.generate_as_trained import GENERATE_AS_TRAINED
from diagnostics.probes.generation_agreement import GENERATION_AGREEMENT, Agreement, GenerationAgreement
from diagnostics.subject import Subject

DIFFERS = 1e-3
SUM_ERROR = 1e-3
TEMPERATURE = 3.0  # and its inverse: what is sampled at to taste is no other path


def judge(agreement: GenerationAgreement) -> Verdict:
    """Present where generation is random, softmaxed twice, or reads the model otherwise than training."""
    both = (agreement.fresh, agreement.standing)
    reasons = (differences(agreement.fresh) | differences(agreement.standing)).values()
    numbers = {f"{each.model} {name}": value for each in both for name, value in figures(each).items()}
    if reasons:
        return present("; ".join(reasons), **numbers)
    compared = [each.differing for each in both if each.differing is not None]
    if not compared:
        return unclear(
            "generation is repeatable and its scores are no probabilities, but the training path's last logits move "
            "with tokens that they must not know: there is nothing honest to compare with",
            **numbers,
        )
    return absent(
        f"the next token's log-probabilities agree with the training path's within {max(compared):.1g} standard "
        "deviations of the logits, and two calls give the same",
        **numbers,
    )


def figures(agreement: Agreement) -> dict[str, float]:
    """The numbers of one comparison that a report can show."""
    found = {"entropy as sampled": agreement.entropy, "entropy of the logits": agreement.raw_entropy}
    if agreement.total_variation is not None:
        found["total variation"] = agreement.total_variation
    return found


def differences(agreement: Agreement) -> dict[str, str]:
    """What is wrong with one model's generation: a phrase for each kind of difference."""
    found = {}
    if agreement.repeated > agreement.rounding:
        found["random"] = "two calls on one context give different scores (dropout is on while text is generated)"
    if are_probabilities(agreement):
        found["softmax"] = (
            f"the scores are already probabilities: softmaxed again, the {agreement.model} model's samples have an "
            f"entropy of {agreement.entropy:.4f} of {agreement.uniform:.4f} nats"
        )
    if agreement.differing is not None and agreement.differing > DIFFERS and not is_tempered(agreement):
        found["path"] = (
            f"even without dropout and before any softmax, the {agreement.model} model's log-probabilities differ from "
            f"the training path's by up to {agreement.differing:.2g} standard deviations of the logits (total "
            f"variation {agreement.total_variation:.2g})"
        )
    return found


def are_probabilities(agreement: Agreement) -> bool:
    """Whether the scores are distributions, although their softmax is what is sampled from."""
    return agreement.smallest >= 0 and agreement.sum_error < SUM_ERROR


def is_tempered(agreement: Agreement) -> bool:
    """Whether the two differ by a temperature alone, of a size that people choose."""
    temperature, besides = agreement.temperature, agreement.besides
    if temperature is None or besides is None:
        return False
    return besides <= DIFFERS and 1 / TEMPERATURE <= temperature <= TEMPERATURE


def plant(subject: Subject) -> Subject:
    """The subject that leaves the newest token out when it generates.

    Raises:
        ValueError: it does not say how it generates.
    """
    view = subject.token_view
    if view is None:
        raise ValueError("this subject has no token view; it generates nothing")

    def late(model: nn.Module, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        assert view.next_logits is not None
        return view.next_logits(model, tokens[:, :-1] if tokens.shape[1] > 1 else tokens)

    if view.next_logits is None:
        raise ValueError("this subject's token view has no next_logits; how it generates is unknown")
    return replace(subject, token_view=replace(view, next_logits=late))


FAULT = Fault(
    id="generation-differs-from-training",
    family="evaluation",
    grade="proof",
    concerns="honesty",
    repair_rank=80,
    measured_by=(GENERATION_AGREEMENT,),
    judge=judge,
    plant=plant,
    remedies=(GENERATE_AS_TRAINED,),
    follows_from=("softmax-before-cross-entropy", "parameters-not-registered", "generates-uniform-tokens"),
    looks_like=("targets-not-shifted", "future-token-leak", "softmax-before-cross-entropy"),
    wrong="probabilities = model(tokens)[:, -1].softmax(-1)  # model in train mode\n"
    "token = torch.multinomial(probabilities.softmax(-1), 1)",
    right="model.eval()\ntoken = torch.multinomial(model(tokens)[:, -1].softmax(-1), 1)",
)
