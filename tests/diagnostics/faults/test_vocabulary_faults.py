"""whole-sentences-as-tokens and vocabulary-too-large on real text, with and without a split into words."""

import pydoc_data.topics
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import vocabulary_too_large, whole_sentences_as_tokens
from diagnostics.probes.vocabulary import measure_vocabulary
from tests import subjects

SENTENCES, TOO_LARGE = whole_sentences_as_tokens.FAULT, vocabulary_too_large.FAULT
TEXT = "\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))


@cache
def vocabulary_of(characters: int, vocab_size: int, split: str | None):
    """What is measured on the first characters of Python's own documentation, 70 % of it for training."""
    tokenizer = Tokenizer(models.BPE())
    if split is not None:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(split), behavior="isolated")
    text = TEXT[:characters]
    paragraphs = [text] if split else text.split("\n\n")
    tokenizer.train_from_iterator(paragraphs, trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False))
    ids = [number for paragraph in paragraphs for number in tokenizer.encode(paragraph).ids]
    tokens = [tokenizer.id_to_token(number).encode() for number in range(tokenizer.get_vocab_size())]
    cut = len(ids) * 7 // 10
    return measure_vocabulary(tokens, torch.tensor(ids[:cut]), torch.tensor(ids[cut:]))


WORDS = r" ?\w+|[^\w\s]+|\s+"


@pytest.mark.parametrize("fault", [SENTENCES, TOO_LARGE], ids=lambda fault: fault.id)
def test_a_thousand_types_of_split_words_on_75_kilobytes_are_sensible(fault: Fault) -> None:
    assert fault.judge(vocabulary_of(75_000, 1000, WORDS)).status == "absent"


def test_eight_thousand_raw_merges_hold_whole_lines_and_teach_little() -> None:
    measured = vocabulary_of(len(TEXT), 8063, None)
    sentences, too_large = SENTENCES.judge(measured), TOO_LARGE.judge(measured)
    assert sentences.status == too_large.status == "present"
    assert measured.longest[0][:20] in sentences.because.replace("\\n", "\n")
    assert f"support about {measured.train_tokens // 100} types" in too_large.because


def test_eight_thousand_split_words_keep_most_of_the_loss_learnable() -> None:
    measured = vocabulary_of(len(TEXT), 8000, WORDS)
    assert measured.rare > measured.types / 2
    assert TOO_LARGE.judge(measured).status == "absent"


def test_types_of_two_words_alone_decide_nothing() -> None:
    tokens = [b"of the", b"of", b"the"]
    verdict = SENTENCES.judge(measure_vocabulary(tokens, torch.tensor([0, 1, 2]), torch.tensor([0])))
    assert verdict.status == "unclear"
    assert verdict.because == "1 of 3 types span two or three words (such as 'of the'), none spans four"


def test_a_vocabulary_between_the_thresholds_is_unclear() -> None:
    measured = replace(vocabulary_of(len(TEXT), 8063, None), heldout_bigram=8.995 - 1.2)
    assert TOO_LARGE.judge(measured).status == "unclear"


@pytest.mark.parametrize("fault", [SENTENCES, TOO_LARGE], ids=lambda fault: fault.id)
@pytest.mark.parametrize("name", ["torch-encoder", "gru", "gpt2", "encoder-decoder"])
def test_planted_vocabulary_fires_and_the_healthy_one_does_not(
    fault: Fault, name: str, verdict_of: Callable[..., Verdict]
) -> None:
    subject = subjects.HEALTHY[name]()
    assert fault.plant is not None
    assert verdict_of(fault, subject).status == "absent"
    assert verdict_of(fault, fault.plant(subject)).status == "present"


@pytest.mark.parametrize("fault", [SENTENCES, TOO_LARGE], ids=lambda fault: fault.id)
def test_a_vocabulary_cannot_be_planted_without_text(fault: Fault) -> None:
    assert fault.plant is not None
    with pytest.raises(ValueError, match="mlp has no text view"):
        fault.plant(subjects.mlp())
