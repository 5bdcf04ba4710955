"""The head shares an embedding table whose numbers are far too large for a head.

Shows as:      a first loss of many times ln V, which falls for long before anything is learned.
Why it hurts:  nn.Embedding draws N(0, 1). A head that multiplies with such a table turns an input of unit scale into
               logits with a standard deviation of sqrt(d_model): the softmax is near one-hot, and wrong.
Measured by:   stream-scale: size of the table, of the head's input and of the logits of a fresh model; structure:
               whether they are one.
Judged by:     a tied head, logits that deviate by more than HOT and cost more than EXCESS nats above ln V, and a table
               that explains it: neither the head's input nor the embedded tokens are large. Grade: sign.
Looks like:    embedding-scale, no-final-norm, saturated-output.
Remedy:        draw the table from N(0, 1/d_model) or N(0, 0.02), and multiply by sqrt(d_model) at the entry if wanted.
Blind spots:   models without a classification loss.
Source:        Vaswani et al. 2017, section 3.4 (sqrt(d_model) at the entry is there because the table is shared). HOT
               and EXCESS: ours; healthy heads start between 0.01 and 1.2, and within half a nat of ln V.
"""

import math

import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.faults.embedding_scale import LARGE
from diagnostics.intervention import rebuilt
from diagnostics.interventions.shrink_head import SHRINK_HEAD
from diagnostics.probes.stream_scale import STREAM_SCALE, StreamScale, stream_scale
from diagnostics.probes.structure import STRUCTURE, Structure, structure
from diagnostics.subject import Subject

HOT = 2.5
EXCESS = 1.0  # nats
TABLE = 0.4  # root mean square of a table that is large for a head; N(0, 1/d_model) is 0.25 at the smallest widths


def judge(scale: StreamScale, facts: Structure) -> Verdict:
    """Present where a shared table alone makes the first logits large."""
    if scale.logit_std is None or scale.raw_loss is None or not scale.classes or facts.head_shape is None:
        return not_tested("no classification loss with a last matrix was seen")
    if not math.isfinite(scale.logit_std) or not math.isfinite(scale.raw_loss):
        return unclear("the logits of a fresh model are not finite; nothing can be told from their size")
    if not facts.tied:
        return absent("the head has weights of its own")
    numbers = {"logit standard deviation": scale.logit_std, "first loss": scale.raw_loss}
    told = hot(scale)
    if told is None:
        return absent(f"the logits of a fresh model deviate by {scale.logit_std:.3g}", **numbers)
    if (scale.token_rms or 0.0) > LARGE or (scale.head_input_rms or 0.0) > LARGE:
        return unclear(f"{told}; what enters the stack, or the head, is large already", **numbers)
    if scale.vectors_rms is None or scale.vectors_rms < TABLE:
        return unclear(f"{told}; the shared table is not what makes them so", **numbers)
    return present(
        f"{told}; the head shares an embedding table with a root mean square of {scale.vectors_rms:.3g}, where "
        f"{facts.head_shape[1] ** -0.5:.2g} gives logits of about one",
        **numbers,
    )


def hot(scale: StreamScale) -> str | None:
    """That a fresh model's logits are large and cost much, in words; None where they are not."""
    assert scale.logit_std is not None
    assert scale.raw_loss is not None
    assert scale.classes is not None
    uniform = math.log(scale.classes)
    if scale.logit_std <= HOT or scale.raw_loss <= uniform + EXCESS:
        return None
    return (
        f"the logits of a fresh model deviate by {scale.logit_std:.3g} and cost {scale.raw_loss:.4g} nats, where "
        f"saying nothing costs {uniform:.4g}"
    )


def plant(subject: Subject) -> Subject:
    """The subject whose shared table is drawn from N(0, 1) and enters the stack as it is.

    Raises:
        ValueError: the head is not tied, or something else keeps the logits small.
    """
    with open_bench(subject, 0) as bench:
        scale, facts = stream_scale(bench), structure(bench)
    if not facts.tied or not scale.vectors_rms:
        raise ValueError(f"the head of {subject.name} is not tied; its table may be as large as it likes")
    factor = 1 / scale.vectors_rms

    def enlarge(model: nn.Module) -> None:
        tables = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
        with torch.no_grad():
            for table in tables.values():
                if tuple(table.shape) == facts.head_shape:
                    table.mul_(factor)

    planted = rebuilt(subject, enlarge)
    with open_bench(planted, 0) as bench:
        status = judge(stream_scale(bench), facts).status
    if status != "present":
        raise ValueError(f"a table from N(0, 1) leaves the logits of {subject.name} small, or its stream large")
    return planted


FAULT = Fault(
    id="tied-head-scale",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=42,
    measured_by=(STREAM_SCALE, STRUCTURE),
    judge=judge,
    plant=plant,
    remedies=(SHRINK_HEAD,),
    looks_like=("embedding-scale", "no-final-norm", "saturated-output"),
    follows_from=("embedding-scale", "no-final-norm"),
    wrong="self.embedding = nn.Embedding(vocab, d_model)   # N(0, 1)\nself.head.weight = self.embedding.weight",
    right="nn.init.normal_(self.embedding.weight, std=0.02)\nself.head.weight = self.embedding.weight",
)
