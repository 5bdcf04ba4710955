"""The vocabulary probe on streams small enough to count by hand."""

import math

import pytest
import torch

from diagnostics.probe import read
from diagnostics.probes.vocabulary import VOCABULARY, measure_vocabulary, words_in
from tests import subjects

TOKENS = [b"a", b"b", b"to be", b"or not to be\n", b"..."]
TRAIN = torch.tensor([0, 1] * 11 + [2, 2, 3])
HELDOUT = torch.tensor([0, 1, 0, 4])


def test_types_are_counted_by_occurrence() -> None:
    measured = measure_vocabulary(TOKENS, TRAIN, HELDOUT)
    assert (measured.types, measured.train_tokens, measured.heldout_tokens) == (5, 25, 4)
    assert (measured.unseen, measured.rare, measured.rarest_merge) == (1, 3, 1)
    assert measured.occurrences_per_type == 5.0
    assert measured.unseen_in_heldout == 0.25
    assert measured.bytes_per_token == pytest.approx((22 + 2 * 5 + 13) / 25)
    assert measured.uniform == math.log(5)


def test_types_are_sorted_by_the_words_they_hold() -> None:
    measured = measure_vocabulary(TOKENS, TRAIN, HELDOUT)
    assert (measured.spanning, measured.lines) == (2, 1)
    assert measured.spanning_tokens == pytest.approx(3 / 25)
    assert measured.longest[:2] == ("or not to be\n", "to be")
    assert measured.longest_counts[:2] == (1, 2)


@pytest.mark.parametrize(
    ("text", "words"), [("", 0), (" the", 1), ("\n\n", 0), ("...", 0), ("don't", 1), ("a\nb", 2), ("I, too, am 4", 4)]
)
def test_a_word_has_a_letter_or_a_digit(text: str, words: int) -> None:
    assert words_in(text) == words


def test_bytes_that_are_no_text_are_counted_all_the_same() -> None:
    assert measure_vocabulary([b"\xff", b"\xc3"], torch.tensor([0, 1, 0]), torch.tensor([0])).spanning == 0


def test_a_subject_without_text_is_not_measured() -> None:
    assert read(VOCABULARY, subjects.mlp(), seed=0).reason == "this subject has no text view"


def test_one_letter_tokens_have_the_entropy_of_their_chain() -> None:
    measured = read(VOCABULARY, subjects.gru(), seed=0).measurement
    assert measured.types == subjects.VOCAB
    assert measured.heldout_bigram == pytest.approx(subjects.LOWEST_LOSS, abs=0.05)
    assert measured.bytes_per_token == 1.0
