"""The last matrix has weights of its own where the recipe shares the embedding's.

Shows as:      nothing in the loss by itself; as many more parameters as the vocabulary has, times d_model.
Why it hurts:  rare tokens get a gradient only where they are targets, or only where they are inputs, not both.
Measured by:   structure: the table that is looked up and the matrix that is multiplied with last.
Judged by:     the same shape, but not the same tensor. Grade: deviation: it departs from the 2017 recipe and is
               harmless unless a trial says otherwise. With a large embedding an untied head is even safer.
Looks like:    vocabulary-too-large.
Remedy:        head.weight = embedding.weight, and an embedding drawn from N(0, 1/d_model).
Blind spots:   heads that share through a projection; separate vocabularies of source and target.
Source:        Vaswani et al. 2017, section 3.4; Press & Wolf 2017, "Using the Output Embedding".
"""

import torch
from torch import nn

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import rebuilt
from diagnostics.interventions.final_norm import head_weight
from diagnostics.interventions.tie_weights import TIE_WEIGHTS
from diagnostics.interventions.untie_weights import untie_weights
from diagnostics.probes.structure import STRUCTURE, Structure
from diagnostics.subject import Subject


def judge(facts: Structure) -> Verdict:
    """Present where head and embedding could be shared and are not."""
    if facts.embedding_shape is None or facts.head_shape is None:
        return not_tested("no embedding, or no last matrix, was seen")
    if facts.tied:
        return absent("the head multiplies with the embedding table itself")
    if facts.embedding_shape != facts.head_shape:
        return absent(f"embedding {facts.embedding_shape} and head {facts.head_shape} differ in shape")
    return present(
        f"embedding and head are both {facts.head_shape} and not shared; this departs from the 2017 recipe, harmless "
        "unless a trial says otherwise"
    )


def plant(subject: Subject) -> Subject:
    """The subject whose head has weights of its own, of the same size as the table's but in another order."""
    untied = untie_weights(subject)
    name = head_weight(untied)

    def reorder(model: nn.Module) -> None:
        with torch.no_grad():
            head = model.get_parameter(name)
            head.copy_(head.flip(0))

    return rebuilt(untied, reorder)


FAULT = Fault(
    id="untied-head",
    family="model",
    grade="deviation",
    concerns="fit",
    repair_rank=50,
    measured_by=(STRUCTURE,),
    judge=judge,
    plant=plant,
    follows_from=("tied-weights-drift-apart",),
    remedies=(TIE_WEIGHTS,),
    looks_like=("vocabulary-too-large",),
    wrong="self.head = nn.Linear(d_model, vocab)",
    right="self.head = nn.Linear(d_model, vocab, bias=False)\nself.head.weight = self.embedding.weight",
)
