"""Whole phrases of the text are single tokens.

Shows as:      long verbatim passages in samples that are otherwise gibberish, even from an untrained model.
Why it hurts:  a passage that is one token is never spelled out, so nothing about its words is learned from it; drawing
               it once by chance prints it whole, which looks like memory and is none.
Measured by:   vocabulary: the words that each type holds.
Judged by:     a type that holds four words or more. Grade: proof that merges went across words. Types of two or three
               words alone are left undecided: some tokenizers allow them on purpose.
Looks like:    vocabulary-too-large.
Remedy:        split the text into words before learning merges (a pre-tokenizer), and train the tokenizer again.
Blind spots:   scripts written without spaces; tokenizers that merge phrases on purpose (SuperBPE) are named, too. The
               plant gives the same tokens other bytes; it does not train a tokenizer.
Source:        Radford et al. 2019, section 2.2 (merges kept inside a category of characters). Four words, ours: raw
               merges on 500 kB of plays give 19 such types of 8,063, on 72 kB of dialogue with songs 54 of 1,000; a
               split into words gives none at any size.
"""

from dataclasses import replace

from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.probes.vocabulary import VOCABULARY, Vocabulary
from diagnostics.subject import Subject

QUOTED = 80  # characters of the longest token that a sentence can hold


def judge(vocabulary: Vocabulary) -> Verdict:
    """Present where a type holds four words or more."""
    lines, spanning, types = vocabulary.lines, vocabulary.spanning, vocabulary.types
    numbers = {"types of several words": float(spanning), "types of four words or more": float(lines)}
    if not spanning:
        return absent(f"none of the {types} types holds more than one word", **numbers)
    longest = vocabulary.longest[0] if vocabulary.longest else ""
    quote = repr(longest if len(longest) <= QUOTED else longest[:QUOTED] + "...")
    if not lines:
        return unclear(
            f"{spanning} of {types} types span two or three words (such as {quote}), none spans four", **numbers
        )
    return present(
        f"{spanning} of {types} types span words and {lines} hold four or more; one token that occurs "
        f"{vocabulary.longest_counts[0] if longest else 0} times is {quote}",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject with a line of words as the bytes of every token.

    Raises:
        ValueError: the subject has no text view.
    """
    view = subject.text_view
    if view is None:
        raise ValueError(f"{subject.name} has no text view; its tokens have no bytes to change")
    lines = [b"and then came line " + str(token).encode() + b"\n" for token in range(len(view.token_bytes))]
    return replace(subject, text_view=replace(view, token_bytes=lines))


FAULT = Fault(
    id="whole-sentences-as-tokens",
    family="data",
    grade="proof",
    concerns="honesty",
    repair_rank=90,
    measured_by=(VOCABULARY,),
    judge=judge,
    plant=plant,
    looks_like=("vocabulary-too-large",),
    wrong="pieces = [text]\nvocabulary = learn_merges(pieces, 8000)",
    right='pieces = re.findall(r" ?\\w+|[^\\w\\s]+|\\s+", text)\nvocabulary = learn_merges(pieces, 8000)',
)
