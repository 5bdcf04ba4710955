import pytest

from bpe import train, vocabulary_report

SONG = "\n".join(["we light the lanterns one by one"] * 7) + "\nand then we all go home to bed\n"


@pytest.fixture(scope="module")
def song():
    tokenizer = train([SONG], vocab_size=300, split="none")
    return vocabulary_report(tokenizer, tokenizer.encode(SONG))


def test_without_a_split_repeated_lines_become_tokens(song):
    assert song.word_spanning > 0
    assert "we light the lanterns one by one" in song.whole_lines[0].text.splitlines()
    assert "we light the lanterns one by one" in song.longest[0].text


def test_with_a_split_no_token_spans_words_or_holds_a_line():
    tokenizer = train([SONG], vocab_size=283)
    report = vocabulary_report(tokenizer, tokenizer.encode(SONG))
    assert (report.word_spanning, report.whole_lines) == (0, ())


def test_types_and_tokens_are_counted_by_hand():
    # "abab" -> (a, b) twice -> ab ab; a, b and the other 254 bytes are then unused.
    tokenizer = train(["abab"], vocab_size=257, split="none")
    report = vocabulary_report(tokenizer, tokenizer.encode("abab"))
    assert (report.tokens, report.bytes_per_token, report.unused, report.rare) == (2, 2.0, 256, 257)
    assert report.last_merge_count == 2
    assert [(kind.token_id, kind.text, kind.count) for kind in report.rarest] == [(256, "ab", 2)]


def test_the_lists_are_sorted_and_as_long_as_asked(documentation, documentation_tokenizer):
    report = vocabulary_report(documentation_tokenizer, documentation_tokenizer.encode(documentation), top=5)
    lengths = [len(kind.text) for kind in report.longest]
    assert lengths == sorted(lengths, reverse=True)
    assert [kind.count for kind in report.rarest] == sorted(kind.count for kind in report.rarest)
    assert (len(report.longest), len(report.rarest)) == (5, 5)
    assert report.unused <= report.rare <= report.vocab_size


def test_without_merges_there_is_no_last_merge():
    tokenizer = train(["ab"], vocab_size=2, alphabet="characters")
    assert vocabulary_report(tokenizer, tokenizer.encode("ab")).last_merge_count is None


def test_an_empty_text_is_refused(documentation_tokenizer):
    with pytest.raises(ValueError, match="ids are empty; a report needs a text"):
        vocabulary_report(documentation_tokenizer, [])
