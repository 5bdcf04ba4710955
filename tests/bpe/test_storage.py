import base64
import json

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from bpe import load, load_rank_file, read_token_ids, save_rank_file, save_three_files, split_pattern, train

END = "<|endoftext|>"
SPLIT = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
AWKWARD = "Don't!  naïve — 字 🏮 1234567\r\n\r\n\tx\x00\x1c \u017f \ufb03\u2028" + "-" * 37 + " "


@pytest.fixture(scope="module")
def characters(documentation):
    return train([documentation[:20_011]], vocab_size=499, alphabet="characters", split="none")


def stored(tokenizer, folder, **changes):
    """`tokenizer`'s file with some entries of its model or of the file replaced."""
    path = tokenizer.save(folder)
    content = json.loads(path.read_text("utf-8"))
    for name, value in changes.items():
        (content["model"] if name in content["model"] else content)[name] = value
    path.write_text(json.dumps(content), "utf-8")
    return path


@pytest.fixture
def small():
    return train(["the cat and the hat"], vocab_size=263, special_tokens=[END])


# tokenizer.json


@pytest.mark.parametrize("alphabet", ["bytes", "characters"])
@pytest.mark.parametrize("split", ["gpt4", "gpt2", "none", r"[a-z]+|\d"])
def test_hugging_face_loads_what_we_save_and_gives_the_same_ids(tmp_path, documentation, alphabet, split):
    text = documentation[:20_011] + AWKWARD
    ours = train([text], vocab_size=997, split=split, alphabet=alphabet, special_tokens=[END, "<pad>"])
    theirs = tokenizers.Tokenizer.from_file(str(ours.save(tmp_path)))
    marked = f"{text}{END}{AWKWARD}<pad>"
    ids = ours.encode(marked, allowed_special="all")
    assert theirs.encode(marked).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == marked == ours.decode(ids)
    assert theirs.get_vocab_size() == ours.vocab_size


@pytest.mark.parametrize("alphabet", ["bytes", "characters"])
@pytest.mark.parametrize("split", ["gpt4", "gpt2", "none", r"[a-z]+|\d"])
def test_what_was_saved_loads_as_it_was(tmp_path, alphabet, split):
    tokenizer = train(["the cat, the hat"], vocab_size=260, split=split, alphabet=alphabet, stop_early=True)
    tokenizer.save(tmp_path / "deep" / "folder")
    assert load(tmp_path / "deep" / "folder") == tokenizer
    assert load(tmp_path / "deep" / "folder" / "tokenizer.json") == tokenizer


@pytest.fixture(scope="module")
def saved_twins(tmp_path_factory, documentation_tokenizer):
    path = documentation_tokenizer.save(tmp_path_factory.mktemp("twins"))
    return tokenizers.Tokenizer.from_file(str(path)), load(path)


# Latin-1, because Hugging Face's expression engine does not know the letters of the latest Unicode.
@given(text=st.text(st.sampled_from("the cat's é字\n\t 129,-_") | st.characters(codec="latin-1"), max_size=101))
@settings(deadline=None)
def test_a_saved_tokenizer_gives_the_ids_of_hugging_face_on_any_text(saved_twins, text):
    theirs, ours = saved_twins
    assert theirs.encode(text).ids == ours.encode(text)


def test_a_file_that_hugging_face_wrote_loads_with_its_ids(tmp_path, documentation, peer):
    theirs = peer([documentation[:20_011]], vocab_size=997)
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path).encode(documentation) == theirs.encode(documentation).ids


def test_special_tokens_that_hugging_face_put_first_keep_their_ids(tmp_path):
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=271, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    theirs.train_from_iterator(["the cat's hat and the other's hat " * 5], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    assert ours.special_tokens == {"<s>": 0, "</s>": 1}
    assert ours.split == "gpt2"
    text = "<s>the other cat's hat</s>"
    assert ours.encode(text, allowed_special="all") == theirs.encode(text).ids
    assert load(ours.save(tmp_path / "again")) == ours
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json")).encode(text).ids == ours.encode(
        text, allowed_special="all"
    )


def test_older_files_write_a_merge_as_two_words(tmp_path, small):
    content = json.loads(small.save(tmp_path).read_text("utf-8"))
    old = [" ".join(pair) for pair in content["model"]["merges"]]
    assert load(stored(small, tmp_path, merges=old)) == small


def test_a_special_token_that_reads_like_bytes_cannot_be_saved(tmp_path):
    tokenizer = train(["text"], vocab_size=257, special_tokens=["\u0120"])  # how the format writes a space
    with pytest.raises(ValueError, match=r"is also how tokenizer\.json writes other bytes; choose another text"):
        tokenizer.save(tmp_path)


# The three files


def test_the_three_files_come_back(tmp_path, characters, documentation):
    ids = characters.encode(documentation[:20_011])
    save_three_files(characters, tmp_path / "seed", ids)
    assert load(tmp_path / "seed") == characters
    assert read_token_ids(tmp_path / "seed") == ids
    assert sorted(path.name for path in (tmp_path / "seed").iterdir()) == ["base.json", "tokens.txt", "vocab.json"]


def test_the_three_files_hold_what_one_can_write_by_hand(tmp_path):
    # "abab": a and b are 0 and 1; (0, 1) occurs twice and becomes 2.
    tokenizer = train(["abab"], vocab_size=3, alphabet="characters", split="none")
    save_three_files(tokenizer, tmp_path, tokenizer.encode("abab"))
    assert json.loads((tmp_path / "base.json").read_text()) == {"0": 97, "1": 98}
    assert json.loads((tmp_path / "vocab.json").read_text()) == {"2": [0, 1]}
    assert (tmp_path / "tokens.txt").read_text() == "2,2"


def test_the_three_files_may_name_characters_in_any_order(tmp_path):
    (tmp_path / "base.json").write_text('{"1": 97, "0": 98}')
    (tmp_path / "vocab.json").write_text('{"3": [2, 2], "2": [1, 0]}')
    tokenizer = load(tmp_path)
    assert (tokenizer.split, tokenizer.alphabet) == ("none", "characters")
    assert tokenizer.encode("ababab") == [3, 2]


def test_the_three_files_refuse_what_they_cannot_hold(tmp_path, small):
    with pytest.raises(ValueError, match="hold alphabet='characters', split='none' and no special tokens only"):
        save_three_files(small, tmp_path, [])


# tiktoken


@pytest.mark.parametrize("split", ["gpt4", "gpt2", "none"])
def test_tiktoken_built_from_the_rank_file_gives_the_same_ids(tmp_path, documentation, split):
    text = documentation[:50_021] + AWKWARD
    ours = train([text], vocab_size=1499, split=split, special_tokens=[END])
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=split_pattern(ours.split),
        mergeable_ranks=load_tiktoken_bpe(str(save_rank_file(ours, tmp_path / "ours.tiktoken"))),
        special_tokens=dict(ours.special_tokens),
    )
    for part in (text[:20_011], documentation[90_000:95_003], AWKWARD):
        assert theirs.encode(part) == ours.encode(part)
    assert theirs.encode(f"a{END}b", allowed_special="all") == ours.encode(f"a{END}b", allowed_special="all")


def test_a_large_vocabulary_gives_the_ids_of_tiktoken(tmp_path, documentation, documentation_tokenizer):
    ranks = load_tiktoken_bpe(str(save_rank_file(documentation_tokenizer, tmp_path / "ranks")))
    theirs = tiktoken.Encoding("ours", pat_str=split_pattern("gpt4"), mergeable_ranks=ranks, special_tokens={})
    assert theirs.encode(documentation) == documentation_tokenizer.encode(documentation)


def test_the_merges_are_recovered_from_a_rank_file(tmp_path, documentation_tokenizer, small):
    assert load(save_rank_file(documentation_tokenizer, tmp_path / "ours.tiktoken")) == documentation_tokenizer
    save_rank_file(small, tmp_path / "small")
    assert load_rank_file(tmp_path / "small", split="gpt4", special_tokens=[END]) == small


def test_a_rank_file_refuses_what_it_cannot_hold(tmp_path, characters, peer):
    with pytest.raises(ValueError, match="a rank file needs alphabet='bytes', not 'characters'"):
        save_rank_file(characters, tmp_path / "ranks")


def test_a_rank_file_refuses_ids_in_another_order(tmp_path, small):
    path = small.save(tmp_path)
    content = json.loads(path.read_text("utf-8"))
    vocab = content["model"]["vocab"]
    vocab[END], vocab["!"] = vocab["!"], vocab[END]
    content["added_tokens"][0]["id"] = vocab[END]
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match="needs ids in the order bytes, merges, special tokens"):
        save_rank_file(load(path), tmp_path / "ranks")


# Damage: one line each, which names the path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "is not JSON: "),
        ("tokenizer.json", b"[1]", "must hold a JSON object, not list"),
        ("tokenizer.json", b"\xff\xfe", "is no tokenizer: it is not a text file in UTF-8"),
        ("tokenizer.json", b"{}", "'model' is missing"),
        ("tokenizer.json", b'{"model": {"type": "WordPiece"}}', "it holds a WordPiece model; only BPE can be read"),
        ("tokenizer.json", b'{"model": {"vocab": {}}}', "'merges' is missing"),
        ("base.json", b"{}", "vocab.json cannot be read: No such file or directory"),
        ("other.txt", b"", "holds no tokenizer: neither tokenizer.json nor base.json and vocab.json"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).count(str(tmp_path)) == 1
    assert "\n" not in str(caught.value)


def test_a_path_that_does_not_exist_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere cannot be read: No such file or directory"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": {"a": 0, "b": 2}}, "its 3 tokens do not have the ids 0 to 2, each once"),
        ({"vocab": {"a": "0"}}, "'a' must be of type int, not str"),
        ({"vocab": {" ": 0}}, "token ' ' is not written in the characters that stand for bytes"),
        ({"merges": [["t", "nothing"]]}, r"the merge \['t', 'nothing'\] is not of two tokens of its vocabulary"),
        ({"merges": ["t"]}, "the merge 't' is not of two tokens"),
        ({"merges": [["t", "t"]]}, "merge 0 makes b'tt', which is no token"),
        ({"merges": [[["t"], "t"]]}, "is not of two tokens of its vocabulary"),
        ({"normalizer": {"type": "NFC"}}, "it has a normalizer"),
        ({"post_processor": {"type": "TemplateProcessing"}}, "it has the post-processor 'TemplateProcessing'"),
        ({"post_processor": 7}, "'post_processor' must be of type dict, not int"),
        ({"dropout": 0.1}, "its model sets dropout to 0.1, which changes ids"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, 'the step {"type": "Whitespace"}, which this package does not'),
        ({"pre_tokenizer": {"pretokenizers": [BYTE_LEVEL, SPLIT]}}, "the step .*Isolated.* where this package knows"),
        ({"pre_tokenizer": {"pretokenizers": [SPLIT, SPLIT]}}, "the step .*Isolated.* where this package knows"),
        ({"pre_tokenizer": {"pretokenizers": [SPLIT, GPT2]}}, "the step .*ByteLevel.* where this package knows"),
        ({"pre_tokenizer": [1]}, "'pre_tokenizer' must be of type dict, not list"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [1]}}, "'type' is missing"),
        ({"added_tokens": [1]}, "'content' is missing"),
        ({"added_tokens": 1}, "'added_tokens' must be of type list, not int"),
    ],
)
def test_a_damaged_or_foreign_tokenizer_file_is_one_clear_line(tmp_path, small, changes, message):
    path = stored(small, tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "vocab", "message"),
    [
        ('{"a": 97}', "{}", "the keys of base.json and vocab.json must be ids, not 'a'"),
        ('{"0": "a"}', "{}", "'a' in base.json is no code point of a character"),
        ('{"0": 55296}', "{}", "55296 in base.json is no code point"),
        ('{"0": 97}', '{"1": [0, 2]}', r"vocab.json makes token 1 of \[0, 2\], which is no pair of tokens before it"),
        ('{"0": 97}', '{"1": 5}', "vocab.json makes token 1 of 5"),
        ('{"0": 97}', '{"1": [[0], 0]}', r"vocab.json makes token 1 of \[\[0\], 0\]"),
        ('{"0": 97, "2": 98}', "{}", "its 2 tokens do not have the ids 0 to 1, each once"),
        ('{"0": 97, "1": 97}', "{}", "token b'a' stands in the vocabulary twice"),
    ],
)
def test_damaged_three_files_are_one_clear_line(tmp_path, base, vocab, message):
    (tmp_path / "base.json").write_text(base)
    (tmp_path / "vocab.json").write_text(vocab)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_token_ids_that_are_none_are_refused(tmp_path):
    (tmp_path / "tokens.txt").write_text("1,x")
    with pytest.raises(ValueError, match=r"tokens\.txt must hold ids with commas between: .*'x'"):
        read_token_ids(tmp_path)


def test_a_damaged_rank_file_is_one_clear_line(tmp_path, small):
    path = save_rank_file(small, tmp_path / "ranks")
    lines = path.read_text().splitlines()
    unmade = f"{base64.b64encode(b'qqq').decode()} {len(lines)}"
    for damaged, message in [
        ([*lines[:2], "not base64!", *lines[3:]], "line 3 is not base64 and a rank: 'not base64!'"),
        (lines[1:], "tokens do not have the ids 0 to"),
        (lines[:7], "it has 7 of the 256 single bytes"),
        ([*lines, unmade], "b'qqq'. is not made of two tokens of lower rank"),
        ([], "it has 0 of the 256 single bytes"),
    ]:
        path.write_text("\n".join(damaged))
        with pytest.raises(ValueError, match=message) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
