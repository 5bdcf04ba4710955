import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpe.pretokenizer import NAMED_SPLITS, cut, split_pattern


@pytest.mark.parametrize("split", [*NAMED_SPLITS, r"\w+", r"(a|b)c", "x*"])
@given(text=st.text(st.sampled_from("abcx 1'\n\t\ré_—字") | st.characters()))
def test_the_pieces_joined_are_the_text(split, text):
    pieces = cut(text, split)
    assert "".join(pieces) == text
    assert "" not in pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello world", ["Hello", " world"]),
        ("I'LL we've", ["I", "'LL", " we", "'ve"]),
        ("12345", ["123", "45"]),
        ("a  b", ["a", " ", " b"]),
        ("wait...\n\nno", ["wait", "...\n\n", "no"]),
        ("end  ", ["end", "  "]),
    ],
)
def test_gpt4_keeps_words_with_their_space_and_numbers_short(text, pieces):
    assert cut(text, "gpt4") == pieces


def test_none_leaves_the_text_whole():
    assert cut("one\ntwo three", "none") == ["one\ntwo three"]


def test_what_a_pattern_does_not_match_becomes_pieces_too():
    assert cut("a-b--c", r"[a-z]") == ["a", "-", "b", "--", "c"]


def test_a_split_name_gives_its_pattern_and_a_pattern_itself():
    assert split_pattern("gpt2") == NAMED_SPLITS["gpt2"]
    assert split_pattern(r"\S+|\s+") == r"\S+|\s+"


def test_a_mistyped_split_name_is_not_taken_for_a_pattern():
    with pytest.raises(ValueError, match=r"split \('gtp4'\) must be one of .* did you mean 'gpt4'\?"):
        split_pattern("gtp4")


def test_a_broken_split_pattern_is_refused():
    with pytest.raises(ValueError, match=r"split \('\(a'\) is not a regular expression: missing \)"):
        split_pattern("(a")
