import copy
import dataclasses
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpe
from bpe import Tokenizer, train
from bpe.tokenizer import BYTE_ORDER

END = "<|endoftext|>"
SMALL_TEXTS = st.lists(st.text(st.sampled_from("aab c\n'1é"), max_size=53), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def small():
    return train(["the cat and the hat; " * 3], vocab_size=269, special_tokens=[END, "<pad>"])


# Against Hugging Face


def test_merges_on_the_python_documentation_are_those_of_hugging_face_at_8000(
    documentation, documentation_tokenizer, peer, peer_merges
):
    theirs = peer([documentation], vocab_size=8000)
    assert peer_merges(theirs) == list(documentation_tokenizer.merges)
    assert len(documentation_tokenizer.merges) == 8000 - 256
    assert theirs.encode(documentation).ids == documentation_tokenizer.encode(documentation)


def test_merges_on_shakespeare_are_those_of_hugging_face_at_8000(shakespeare, peer, peer_merges):
    theirs, ours = peer([shakespeare], vocab_size=8000), train([shakespeare], vocab_size=8000)
    assert peer_merges(theirs) == list(ours.merges)
    assert theirs.encode(shakespeare).ids == ours.encode(shakespeare)


@pytest.mark.parametrize("alphabet", ["bytes", "characters"])
def test_merges_without_a_split_are_those_of_hugging_face_at_8000(documentation, peer, peer_merges, alphabet):
    lines = documentation[:200_003].splitlines(keepends=True)
    theirs = peer(lines, vocab_size=8000, split="none", alphabet=alphabet)
    ours = train(lines, vocab_size=8000, split="none", alphabet=alphabet)
    assert peer_merges(theirs) == list(ours.merges)
    assert theirs.get_vocab_size() == ours.vocab_size
    start = documentation[:20_011]
    assert theirs.encode(start).ids == ours.encode(start)


@pytest.mark.parametrize("alphabet", ["bytes", "characters"])
@pytest.mark.parametrize("split", ["gpt4", "gpt2", "none", r"[ab]+"])
@given(texts=SMALL_TEXTS.filter(any))
@settings(deadline=None, max_examples=50)
def test_merges_of_repetitive_texts_are_those_of_hugging_face_until_the_pairs_run_out(
    peer, peer_merges, split, alphabet, texts
):
    theirs = peer(texts, vocab_size=997, split=split, alphabet=alphabet)
    ours = train(texts, vocab_size=997, split=split, alphabet=alphabet, stop_early=True)
    assert peer_merges(theirs) == list(ours.merges)
    assert [theirs.encode(text).ids for text in texts] == [ours.encode(text) for text in texts]


# Round trips


@given(data=st.binary(max_size=101))
def test_any_bytes_come_back(documentation_tokenizer, data):
    ids = documentation_tokenizer.encode_bytes(data)
    assert documentation_tokenizer.decode_bytes(ids) == data


@given(text=st.text(max_size=101))
def test_any_text_comes_back_and_encodes_like_its_bytes(documentation_tokenizer, text):
    ids = documentation_tokenizer.encode(text)
    assert documentation_tokenizer.decode(ids, errors="strict") == text
    assert documentation_tokenizer.encode_bytes(text.encode()) == ids


def test_training_reads_bytes_like_the_text_that_they_spell(documentation):
    part = documentation[:20_011]
    assert train([part], vocab_size=503) == train([part.encode()], vocab_size=503)


def test_training_on_bytes_that_are_no_text_works():
    tokenizer = train([b"\xff\xfe\xff\xfe\xff\xfe"], vocab_size=257)
    assert tokenizer.token_bytes(256) == b"\xff\xfe"


def test_half_a_character_is_replaced_unless_strict(small):
    ids = small.encode("é")[:1]
    assert small.decode(ids) == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        small.decode(ids, errors="strict")


def test_a_piece_too_long_to_remember_is_encoded_the_same_each_time(documentation_tokenizer):
    text = "return" * 31
    assert documentation_tokenizer.encode(text) == documentation_tokenizer.encode(text)
    assert documentation_tokenizer.decode(documentation_tokenizer.encode(text)) == text


# The value


def test_ids_are_bytes_then_merges_then_special_tokens(small):
    assert small.tokens[:256] == tuple(bytes([byte]) for byte in BYTE_ORDER)
    assert small.tokens[256:267] == tuple(small.tokens[left] + small.tokens[right] for left, right in small.merges)
    assert small.special_tokens == {END: 267, "<pad>": 268}
    assert small.vocab_size == 269


def test_characters_have_ids_by_code_point():
    tokenizer = train(["bananana é"], vocab_size=7, alphabet="characters", split="none")
    assert [token.decode() for token in tokenizer.tokens] == [" ", "a", "b", "n", "é", "an", "anan"]


def test_a_tokenizer_cannot_be_changed(small):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.split = "none"
    with pytest.raises(TypeError):
        small.special_tokens["<more>"] = 5


def test_copies_and_pickles_are_equal_and_work(small):
    for twin in (pickle.loads(pickle.dumps(small)), copy.deepcopy(small)):
        assert twin == small
        assert twin.encode("the hat") == small.encode("the hat")
    assert hash(small) == hash(copy.deepcopy(small))


def test_its_repr_is_one_short_line(small):
    expected = (
        f"vocab_size=269, merges=11, split='gpt4', alphabet='bytes', special_tokens={{{END!r}: 267, '<pad>': 268}}"
    )
    assert repr(small) == f"Tokenizer({expected})"


# Special tokens


def test_special_tokens_in_a_text_are_refused(small):
    with pytest.raises(ValueError, match=r"special token '<\|endoftext\|>' at character 3; pass allowed_special="):
        small.encode(f"cat{END}")
    with pytest.raises(ValueError, match="'<pad>'"):
        small.encode(f"cat{END}<pad>", allowed_special={END})


def test_allowed_special_tokens_become_one_id(small):
    expected = [*small.encode("cat"), 267, *small.encode("hat"), 268]
    assert small.encode(f"cat{END}hat<pad>", allowed_special="all") == expected
    assert small.encode(f"cat{END}hat<pad>", allowed_special=[END, "<pad>"]) == expected
    assert small.decode(expected) == f"cat{END}hat<pad>"


def test_encode_bytes_reads_special_tokens_as_ordinary_text(small):
    ids = small.encode_bytes(END.encode())
    assert 267 not in ids
    assert small.decode(ids) == END


def test_the_longest_special_token_wins():
    tokenizer = train(["ab"], vocab_size=258, special_tokens=["<a>", "<a><b>"])
    assert tokenizer.encode("<a><b>", allowed_special="all") == [257]


def test_nothing_is_learned_from_special_tokens_or_across_them():
    apart = train(["the cat", "the hat", "the"], vocab_size=263, split="none", special_tokens=[END])
    joined = train([f"the cat{END}the hat{END}the"], vocab_size=263, split="none", special_tokens=[END])
    assert joined == apart


def test_allowing_what_is_not_special_is_refused(small):
    with pytest.raises(ValueError, match=r"allowed_special names '<cut>', but the special tokens are"):
        small.encode("cat", allowed_special={"<cut>"})
    with pytest.raises(ValueError, match=r"allowed_special \('<pad>'\) must be 'all' or a collection"):
        small.encode("cat", allowed_special="<pad>")


# Messages


@pytest.mark.parametrize("texts", [[], [""], ["", b""]])
def test_an_empty_input_is_refused(texts):
    with pytest.raises(ValueError, match="texts hold nothing to learn from"):
        train(texts, vocab_size=300)


def test_a_single_text_in_place_of_texts_is_refused():
    with pytest.raises(TypeError, match=r"must be an iterable of texts, not a single one; pass \[text\]"):
        train("text", vocab_size=300)


def test_a_vocabulary_below_the_alphabet_is_refused():
    with pytest.raises(ValueError, match=r"vocab_size \(257\) must be at least 258: 256 bytes and 2 special tokens"):
        train(["text"], vocab_size=257, special_tokens=[END, "<pad>"])
    with pytest.raises(ValueError, match=r"vocab_size \(2\) must be at least 3: 3 characters and 0 special"):
        train(["text"], vocab_size=2, alphabet="characters")


def test_a_vocabulary_of_the_alphabet_alone_has_no_merges():
    assert train(["text"], vocab_size=3, alphabet="characters").merges == ()


def test_more_merges_than_exist_are_refused_with_the_size_that_can_be_reached():
    message = r"vocab_size \(300\) is more than these texts give: .* at least 1 times .* at most 259, .*stop_early=True"
    with pytest.raises(ValueError, match=message):
        train(["text"], vocab_size=300)
    assert train(["text"], vocab_size=300, stop_early=True).vocab_size == 259
    assert train(["text"], vocab_size=259).vocab_size == 259


def test_a_minimum_count_ends_the_merges_earlier():
    assert train(["text tex"], vocab_size=300, min_count=2, split="none", stop_early=True).vocab_size == 258
    with pytest.raises(ValueError, match=r"min_count \(0\) must be at least 1"):
        train(["text"], vocab_size=300, min_count=0)


@pytest.mark.parametrize("token_id", [269, -1])
def test_an_unknown_id_is_refused(small, token_id):
    message = rf"token id \({token_id}\) is not in this vocabulary; its ids are 0 to 268"
    with pytest.raises(ValueError, match=message):
        small.decode([0, token_id])
    with pytest.raises(ValueError, match=message):
        small.token_bytes(token_id)


def test_a_character_outside_the_alphabet_is_refused():
    tokenizer = train(["text"], vocab_size=3, alphabet="characters")
    with pytest.raises(ValueError, match=r"character 'é' \(U\+00E9\) is not among the 3 of this alphabet"):
        tokenizer.encode("té")


def test_bytes_that_are_no_text_need_the_alphabet_bytes():
    with pytest.raises(ValueError, match="byte 1 is not UTF-8, which the alphabet 'characters' needs"):
        train([b"a\xff"], vocab_size=300, alphabet="characters")


def test_half_a_surrogate_pair_is_refused(small):
    with pytest.raises(ValueError, match=r"half a surrogate pair, U\+DCFF, at character 1"):
        small.encode("a\udcff")
    with pytest.raises(ValueError, match="half a surrogate pair"):
        train(["a\udcff"], vocab_size=256)


def test_a_bad_split_is_refused_before_anything_is_learned():
    with pytest.raises(ValueError, match=r"split \('\['\) is not a regular expression"):
        train(["text"], vocab_size=256, split="[")


def test_special_tokens_must_be_distinct_and_not_empty():
    with pytest.raises(ValueError, match="special_tokens must not hold the empty text"):
        train(["text"], vocab_size=258, special_tokens=[""])
    with pytest.raises(ValueError, match=r"special_tokens hold '<s>' twice"):
        train(["text"], vocab_size=258, special_tokens=["<s>", "<s>"])
    with pytest.raises(ValueError, match=r"token b't' stands in the vocabulary twice"):
        train(["text"], vocab_size=257, special_tokens=["t"])


BYTES = tuple(bytes([byte]) for byte in BYTE_ORDER)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"tokens": BYTES[1:], "merges": ()}, "byte 0x21 is no token; the alphabet 'bytes' needs all 256"),
        ({"tokens": BYTES, "merges": ((0, 256),)}, r"merge 0 is of \(0, 256\), but ids are 0 to 255"),
        ({"tokens": BYTES, "merges": ((0, 0),)}, "merge 0 makes b'!!', which is no token"),
        ({"tokens": BYTES, "merges": (), "special_tokens": {"<s>": 3}}, "special token '<s>' has the id 3"),
    ],
)
def test_parts_that_do_not_agree_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(**parts)


def test_the_package_gives_the_tokenizer_that_it_names():
    assert bpe.Tokenizer is Tokenizer
