"""`unplateau tokenize`, `encode` and `decode` on a small text."""

import io
import sys
from pathlib import Path

import pytest
import tokenizers

import bpe


def test_tokenize_tells_bytes_tokens_time_files_and_the_next_step(run, text_file, tmp_path) -> None:
    ended = run("tokenize", text_file, "--vocab-size", 300, "--out", tmp_path / "out")
    lines = dict(line.split(maxsplit=1) for line in ended.out.splitlines())
    size = len(text_file.read_bytes())
    tokens = len(bpe.load(tmp_path / "out").encode(text_file.read_text()))
    assert ended.code == 0
    assert lines["text"] == f"{size:,} bytes in 1 document"
    assert lines["vocabulary"] == "300 tokens, 44 of them merges"
    assert lines["encoded"] == f"{tokens:,} tokens, {size / tokens:.2f} bytes per token"
    assert lines["written"] == str(tmp_path / "out" / "tokenizer.json")
    assert ended.out.splitlines()[-1] == f"next        unplateau show {tmp_path / 'out'} {text_file}"


def test_hugging_face_reads_what_tokenize_writes(run, tokenizer, text_file) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = run("encode", tokenizer, "--file", text_file).out.split()
    assert [int(number) for number in ids] == theirs.encode(text_file.read_text()).ids


def test_the_three_files_and_the_rank_file_are_written_when_asked_for(run, text_file, tmp_path) -> None:
    raw = ("--alphabet", "characters", "--split", "none", "--format", "three-files")
    assert run("tokenize", text_file, "--vocab-size", 60, *raw, "--out", tmp_path / "raw").code == 0
    assert bpe.read_token_ids(tmp_path / "raw") == bpe.load(tmp_path / "raw").encode(text_file.read_text())
    both = ("--format", "tiktoken", "--format", "tokenizer-json", "--out", tmp_path / "both")
    assert run("tokenize", text_file, "--vocab-size", 270, *both).code == 0
    assert bpe.load(tmp_path / "both" / "ranks.tiktoken").merges == bpe.load(tmp_path / "both").merges


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "three-files"], "--format three-files holds raw merges of characters only"),
        (["--format", "tiktoken", "--alphabet", "characters"], "--format tiktoken holds bytes only"),
        (["--vocab-size", "200"], "vocab_size (200)"),
        (["--vocab-size", "9999"], "vocab_size (9999) is more than these texts give"),
        (["--split", "gtp4"], "gpt4"),
    ],
)
def test_what_cannot_be_done_is_one_line(options, message, run, text_file, tmp_path) -> None:
    ended = run("tokenize", text_file, *options, "--out", tmp_path / "out")
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_stop_early_takes_what_there_is(run, text_file, tmp_path) -> None:
    assert run("tokenize", text_file, "--vocab-size", 9999, "--stop-early", "--out", tmp_path / "out").code == 0
    assert 256 < bpe.load(tmp_path / "out").vocab_size < 9999


def test_a_path_below_a_file_is_one_line(run, text_file, tmp_path) -> None:
    ended = run("tokenize", text_file, "--vocab-size", 260, "--out", text_file / "below")
    assert (ended.code, ended.err) == (2, f"unplateau: {text_file / 'below'}: Not a directory\n")


@pytest.mark.parametrize("data", [b"", b"plain\n", "düne ✓".encode(), bytes(range(256))])
def test_any_bytes_come_back(data, run, tokenizer, tmp_path, monkeypatch) -> None:
    (tmp_path / "data").write_bytes(data)
    ids = run("encode", tokenizer, "--file", tmp_path / "data").out
    assert ids.count("\n") == 1
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO(ids))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    run("decode", tokenizer)
    assert written.getvalue() == data


def test_ids_may_have_commas_between(run, tokenizer) -> None:
    assert run("decode", tokenizer, "75,78", "86").out == run("decode", tokenizer, "75", "78", "86").out == "low"


@pytest.mark.parametrize(("word", "message"), [("x1", "'x1' is no token id"), ("9999", "token id (9999) is not in")])
def test_what_is_no_id_is_refused(word, message, run, tokenizer) -> None:
    ended = run("decode", tokenizer, "75", word)
    assert ended.code == 2
    assert message in ended.err


def test_a_special_token_is_refused_unless_allowed(run, tokenizer) -> None:
    refused = run("encode", tokenizer, "a<|end|>")
    assert refused.code == 2
    assert "add --allow-special" in refused.err
    assert run("encode", tokenizer, "a<|end|>", "--allow-special").out == "64 299\n"


def test_text_and_file_exclude_each_other(run, tokenizer, text_file) -> None:
    assert "exclude each other" in run("encode", tokenizer, "a", "--file", text_file).err


@pytest.mark.parametrize("command", ["encode", "decode", "show"])
def test_a_folder_without_a_tokenizer_is_one_line(command, run, tmp_path) -> None:
    ended = run(command, tmp_path, "1")
    assert ended.code == 2
    assert f"{tmp_path} holds no tokenizer" in ended.err


def test_a_damaged_tokenizer_is_one_line(run, tmp_path) -> None:
    Path(tmp_path / "tokenizer.json").write_text("{")
    ended = run("encode", tmp_path, "a")
    assert ended.code == 2
    assert "is not JSON" in ended.err
