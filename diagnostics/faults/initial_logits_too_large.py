"""The head is drawn so large that a fresh model is sure of random answers.

Shows as:      a first loss of many times ln V; the first hundreds of steps only undo the start.
Why it hurts:  a near one-hot softmax that is wrong gives large gradients to the head and small ones to all else, and
               the first updates go into shrinking weights.
Measured by:   stream-scale: size of the head's input and of the logits of a fresh model; structure: whether the head is
               an embedding table.
Judged by:     an untied head, logits that deviate by more than HOT and cost more than EXCESS nats above ln V, while the
               head's input is not large and its own numbers explain it. Grade: sign.
Looks like:    tied-head-scale, no-final-norm, inputs-not-scaled, saturated-output.
Remedy:        leave torch's own initialisation of nn.Linear alone, or draw the head from N(0, 0.02) or zeros.
Blind spots:   models without a classification loss; tied heads (see tied-head-scale).
Source:        Karpathy 2019, "A Recipe for Training Neural Networks" (verify the loss at initialisation). HOT and
               EXCESS: as in tied-head-scale. PLANTED: what normal_(std=1) gives a head at width 128.
"""

import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.faults.embedding_scale import LARGE
from diagnostics.faults.tied_head_scale import hot
from diagnostics.intervention import rebuilt
from diagnostics.interventions.final_norm import head_weight
from diagnostics.interventions.shrink_head import SHRINK_HEAD
from diagnostics.probes.stream_scale import STREAM_SCALE, StreamScale, stream_scale
from diagnostics.probes.structure import STRUCTURE, Structure, structure
from diagnostics.subject import Subject

UNEXPLAINED = 3.0  # times what the head's own numbers would give
PLANTED = 11.0


def judge(scale: StreamScale, facts: Structure) -> Verdict:
    """Present where a head of its own makes the first logits large."""
    if scale.logit_std is None or scale.raw_loss is None or not scale.classes or facts.head_shape is None:
        return not_tested("no classification loss with a last matrix was seen")
    if facts.tied:
        return absent("the head is the embedding table")
    numbers = {"logit standard deviation": scale.logit_std, "first loss": scale.raw_loss}
    told = hot(scale)
    if told is None:
        return absent(f"the logits of a fresh model deviate by {scale.logit_std:.3g}", **numbers)
    if scale.head_input_rms is None or scale.head_input_rms > LARGE:
        return unclear(f"{told}; what goes into the head is large already", **numbers)
    explained = scale.head_input_rms * (facts.head_rms or 0.0) * facts.head_shape[1] ** 0.5
    if scale.logit_std > UNEXPLAINED * explained:
        return unclear(f"{told}; the head's own numbers explain {explained:.3g} of that", **numbers)
    return present(
        f"{told}; its input has a root mean square of {scale.head_input_rms:.3g}, so it is the head that is large",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject whose head is drawn so that the logits deviate by PLANTED.

    Raises:
        ValueError: the head is tied, or no parameter.
    """
    with open_bench(subject, 0) as bench:
        scale, facts = stream_scale(bench), structure(bench)
    if facts.tied or not scale.logit_std or (scale.head_input_rms or LARGE) >= LARGE:
        raise ValueError(f"{subject.name} has no head of its own, with an input of usual size, that could be large")
    name, factor = head_weight(subject), PLANTED / scale.logit_std

    def enlarge(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter(name).mul_(factor)

    return rebuilt(subject, enlarge)


FAULT = Fault(
    id="initial-logits-too-large",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=43,
    measured_by=(STREAM_SCALE, STRUCTURE),
    judge=judge,
    plant=plant,
    remedies=(SHRINK_HEAD,),
    looks_like=("tied-head-scale", "no-final-norm", "inputs-not-scaled", "saturated-output"),
    follows_from=("embedding-scale", "no-final-norm", "inputs-not-scaled"),
    wrong="for p in model.parameters():\n    nn.init.normal_(p)          # standard deviation 1",
    right="for p in model.parameters():\n    if p.dim() > 1:\n        nn.init.xavier_uniform_(p)",
)
