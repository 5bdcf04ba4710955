"""The vocabulary has more types than the text can teach.

Shows as:      a held-out loss that stays above unigram frequencies, whatever is repaired in the model.
Why it hurts:  a type that is seen a handful of times gets a handful of gradients; what little there is to predict
               is spread over thousands of them.
Measured by:   vocabulary: occurrences per type, and held-out frequencies of tokens and of pairs.
Judged by:     few occurrences per type, most types rare, and a held-out text on which neither frequencies nor pairs
               get a nat below the uniform level. Grade: sign.
Looks like:    whole-sentences-as-tokens, at-the-entropy-floor.
Remedy:        fewer merges, a split into words before merging, or more text; compare runs in bits per byte.
Blind spots:   a held-out text of another kind than the training text. Word lists whose frequencies fall steeply keep
               most of their loss learnable and are let pass, however rare their tail. The plant changes the text
               view alone, not what the model reads.
Source:        Gowda and May 2020, "Finding the Optimal Vocabulary Size for Neural Machine Translation" (100
               occurrences for 95 % of the types). FEW and LITTLE: ours. Raw merges to 8,063 on 500 kB: 6 to 9
               occurrences per type, 0.60 to 0.65 nats below uniform. Split into words, 8,000 on the same: 9 to 11
               occurrences, 2.7 to 3.1 nats; 1,000 on 75 kB: 17 to 19 occurrences, 1.8 to 2.0 nats.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.vocabulary import VOCABULARY, Vocabulary
from diagnostics.subject import Subject

FEW = 15.0  # occurrences per type
LITTLE = 1.0  # nats below the uniform level that counting can reach on new text
CLEARLY_MORE = 1.5  # times LITTLE
MOST = 0.5  # share of types that are rare
ENOUGH = 100  # occurrences per type, Gowda and May 2020
SPELLINGS = 41


def judge(vocabulary: Vocabulary) -> Verdict:
    """Present where types are rare and counting them helps little on new text."""
    best = min(vocabulary.heldout_unigram, vocabulary.heldout_bigram)
    learnable = vocabulary.uniform - best
    numbers = {
        "occurrences per type": vocabulary.occurrences_per_type,
        "rare types": float(vocabulary.rare),
        "held-out unigram": vocabulary.heldout_unigram,
        "held-out bigram": vocabulary.heldout_bigram,
        "uniform": vocabulary.uniform,
    }
    counted = (
        f"{vocabulary.occurrences_per_type:.1f} occurrences per type, {vocabulary.rare} of {vocabulary.types} types "
        f"seen at most ten times, and new text costs {best:.2f} nats by counting tokens and pairs, {learnable:.2f} "
        f"below the uniform {vocabulary.uniform:.2f}"
    )
    many = vocabulary.occurrences_per_type >= FEW or vocabulary.rare <= MOST * vocabulary.types
    if many or learnable >= CLEARLY_MORE * LITTLE:
        return absent(counted, **numbers)
    if learnable >= LITTLE:
        return unclear(counted, **numbers)
    supported = vocabulary.train_tokens // ENOUGH
    return present(f"{counted}; {vocabulary.train_tokens} tokens support about {supported} types", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject's text with every type in many spellings, one of them drawn for each occurrence.

    Raises:
        ValueError: the subject has no text view.
    """
    view = subject.text_view
    if view is None:
        raise ValueError(f"{subject.name} has no text view; there is no vocabulary to enlarge")
    types = len(view.token_bytes)

    def respelled(stream: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
        generator = torch.Generator().manual_seed(seed)
        spelling = torch.randint(SPELLINGS, (len(stream),), generator=generator).to(stream.device)
        return stream + types * spelling

    enlarged = replace(
        view,
        token_bytes=[data + b"'" * spelling for spelling in range(SPELLINGS) for data in view.token_bytes],
        train_tokens=respelled(view.train_tokens, 0),
        heldout_tokens=respelled(view.heldout_tokens, 1),
    )
    return replace(subject, text_view=enlarged)


FAULT = Fault(
    id="vocabulary-too-large",
    family="data",
    grade="sign",
    concerns="honesty",
    repair_rank=91,
    measured_by=(VOCABULARY,),
    judge=judge,
    plant=plant,
    looks_like=("whole-sentences-as-tokens", "at-the-entropy-floor"),
    wrong="tokenizer = train([text], vocab_size=8000, split='none')  # 500 kB of text",
    right="tokenizer = train([text], vocab_size=1000)  # 100 occurrences per type and more",
)
