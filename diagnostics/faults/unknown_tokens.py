"""Most of the training tokens are one and the same, such as an unknown token.

Shows as:      a loss that is low from the first steps on, and samples that repeat one token.
Why it hurts:  what the text said is gone before the model sees it; predicting the one token is all there is to learn.
Measured by:   token-use: how often each token occurs in the first batches, fillers at the ends of rows left out.
Judged by:     one type that makes up most of the tokens, while most of the vocabulary never occurs; or a good part of
               them, where the text view spells it as unknown. Grade: sign.
Looks like:    vocabulary-too-large, at-the-entropy-floor.
Remedy:        encode with the tokenizer that the vocabulary was made by, with the same normalisation (case, white
               space); or bytes as a last resort, so that nothing is unknown.
Blind spots:   data that are mostly one token by nature (silence, background) and use the rest of their vocabulary; what
               was lost cannot be given back from outside.
Source:        ours. A share of 5 % unknown tokens is usual in word vocabularies (WikiText-2).
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.token_use import TOKEN_USE, TokenUse
from diagnostics.subject import Batch, Subject

MOST = 0.6  # of the tokens
NAMED = 0.3  # of the tokens, where the type is called unknown
UNUSED = 0.5  # of the vocabulary
ENOUGH = 500  # tokens
KNOWN = 5  # planted: one type in so many is left


def judge(use: TokenUse) -> Verdict:
    """Present where one type swallows the others."""
    numbers = {"commonest": use.commonest, "types": float(use.types), "vocabulary": float(use.vocab_size)}
    seen = (
        f"token {use.commonest_id} makes up {use.commonest:.0%} of {use.tokens} tokens, and {use.types} of "
        f"{use.vocab_size} types occur"
    )
    if use.tokens < ENOUGH:
        return unclear(f"{seen}: too few tokens", **numbers)
    if use.called_unknown and use.commonest >= NAMED:
        return present(f"{seen}; its text says that it stands for what is unknown", **numbers)
    if use.commonest < MOST:
        return absent(seen, **numbers)
    if use.types <= UNUSED * use.vocab_size and use.called_unknown is not False:
        return present(f"{seen}: the vocabulary and the encoding do not fit", **numbers)
    return unclear(f"{seen}, which may be so by nature", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose tokens are one and the same but for one type in five.

    Raises:
        ValueError: it has no token view.
    """
    view, text = subject.token_view, subject.text_view
    if view is None:
        raise ValueError(f"{subject.name} has no token view")
    unknown = view.vocab_size - 1

    def encoded(tokens: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        known = (tokens % KNOWN == 0) & (tokens != unknown)
        kept = known if view.padding_id is None else known | (tokens == view.padding_id)
        return torch.where(kept, tokens, torch.full_like(tokens, unknown))

    def batches(seed: int) -> Iterator[Batch]:
        for batch in subject.batches(seed):
            yield view.with_tokens(batch, encoded(view.tokens(batch)))

    def heldout(seed: int) -> Iterator[Batch]:
        assert subject.heldout is not None
        for batch in subject.heldout(seed):
            yield view.with_tokens(batch, encoded(view.tokens(batch)))

    if text is not None:
        spelled = [*text.token_bytes[:unknown], b"<unk>"]
        train, held = encoded(text.train_tokens), encoded(text.heldout_tokens)
        text = replace(text, token_bytes=spelled, train_tokens=train, heldout_tokens=held)
    return replace(subject, batches=batches, heldout=None if subject.heldout is None else heldout, text_view=text)


FAULT = Fault(
    id="unknown-tokens",
    family="data",
    grade="sign",
    concerns="neither",
    repair_rank=90,
    measured_by=(TOKEN_USE,),
    judge=judge,
    plant=plant,
    looks_like=("vocabulary-too-large", "at-the-entropy-floor"),
    wrong="ids = [vocabulary.get(word, unknown) for word in text.split()]  # the vocabulary is in lower case",
    right="ids = [vocabulary.get(word, unknown) for word in text.lower().split()]",
)
