import re
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.corpora import (
    lanterns,
    pydoc,
    read_corpus,
    read_pairs,
    read_text,
    read_texts,
    split_pairs,
    split_text,
)

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>♪ Forty lanterns &amp; <font color="red">one</font> ♪</i>

2
00:00:03,000 --> 00:00:04,000
Who is there?
- Me.
"""
VTT = """WEBVTT

STYLE
::cue { color: red }

NOTE nobody says this

00:01.000 --> 00:02.000 align:start
<v Mara>Who is there?

NOTE nor this

00:03.000 --> 00:04.000
Me &lt;3
"""
ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Comment: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,nobody says this
Dialogue: 0,0:00:01.00,0:00:02.00,Song,,0,0,0,,{\\k20}Forty {\\k30}lanterns\\Nshine
Dialogue: 0,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\\p1}m 0 0 l 7 7{\\p0}
"""


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_srt_keeps_the_words_and_nothing_else(tmp_path: Path) -> None:
    text = read_text(written(tmp_path / "a.srt", SRT))
    assert text == "♪ Forty lanterns & one ♪\nWho is there?\n- Me."


def test_vtt_keeps_the_words_and_nothing_else(tmp_path: Path) -> None:
    assert read_text(written(tmp_path / "a.vtt", VTT)) == "Who is there?\nMe <3"


def test_ass_keeps_the_words_and_nothing_else(tmp_path: Path) -> None:
    assert read_text(written(tmp_path / "a.ass", ASS)) == "Forty lanterns\nshine"


def test_windows_line_ends_and_a_byte_order_mark_are_not_text(tmp_path: Path) -> None:
    assert read_text(written(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo")) == "one\ntwo"


def test_a_folder_gives_all_its_texts_sorted_and_passes_over_the_rest(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    written(tmp_path / "b" / "1.TXT", "second")
    written(tmp_path / "a.txt", "first")
    written(tmp_path / "cover.png", b"\x89PNG")
    assert read_texts(tmp_path) == ["first", "second"]
    assert read_texts([tmp_path / "b", tmp_path / "a.txt"]) == ["second", "first"]


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    bad = {
        written(tmp_path / "empty.txt", " \n"): "empty.txt is empty",
        written(tmp_path / "silent.srt", "no cue at all"): "silent.srt is empty",
        written(tmp_path / "latin.txt", b"ab\xff"): "latin.txt is not UTF-8 (byte 2)",
        written(tmp_path / "film.mkv", "x"): "film.mkv has the unknown extension '.mkv'; known: .txt, .srt, .vtt, .ass",
        tmp_path / "none.txt": "none.txt does not exist; name a file, a folder, or the built-in 'lanterns' or 'pydoc'",
    }
    for path, message in bad.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            read_texts(path)


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no text; looked for \.txt, \.srt"):
        read_texts(tmp_path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = written(tmp_path / "a.txt", "x")
    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(ValueError, match=r"a\.txt cannot be read: Permission denied"):
        read_text(path)


@given(st.text(min_size=2), st.floats(min_value=0.01, max_value=0.99))
def test_both_parts_of_a_text_join_to_it_again(text: str, share: float) -> None:
    try:
        corpus = split_text(text, train_share=share)
    except ValueError:
        assert not 0 < round(len(text) * share) < len(text)
        return
    assert corpus.train + corpus.held_out == text
    assert corpus.train
    assert corpus.held_out
    assert corpus.train_bytes + corpus.held_out_bytes == len(text.encode(errors="surrogatepass"))


def test_the_cut_follows_a_line_end() -> None:
    corpus = split_text("one\ntwo\nthree\n", train_share=0.4)
    assert (corpus.train, corpus.held_out) == ("one\ntwo\n", "three\n")


def test_a_text_of_one_character_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=re.escape("the text (1 characters) is too short to hold a part of it out")):
        split_text("a", train_share=0.5)


def test_bytes_are_counted_and_not_characters() -> None:
    assert split_text("aé\n♪♪", train_share=0.5).held_out_bytes == 6


def test_lanterns_has_26_episodes_that_share_their_songs() -> None:
    episodes = lanterns()
    assert len(episodes) == 26
    lines = [set(episode.splitlines()) for episode in episodes]
    assert len(set.intersection(*lines)) >= 8
    assert not any("-->" in episode or "<i>" in episode for episode in episodes)


def test_pydoc_holds_every_topic() -> None:
    text = pydoc()
    assert all(topic in text for topic in topics.values())
    assert text == pydoc()


def test_several_sources_are_one_text(tmp_path: Path) -> None:
    files = (str(written(tmp_path / "b.txt", "one\n")), str(written(tmp_path / "a.txt", "two\n")))
    corpus = read_corpus(files, train_share=0.5)
    assert corpus.train + corpus.held_out == "one\n\ntwo\n"


def test_pairs_come_from_a_tsv_without_blank_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "hello\thallo\n\nyes\tja\tCC BY\n \tleer\n")
    assert read_pairs([path]) == [("hello", "hallo"), ("yes", "ja")]


def test_pairs_come_from_two_aligned_files(tmp_path: Path) -> None:
    files = [written(tmp_path / "a.en", "hello\nyes\n"), written(tmp_path / "a.de", "hallo\nja\n")]
    assert read_pairs(files) == [("hello", "hallo"), ("yes", "ja")]


def test_bad_pairs_are_refused_in_one_line(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a.en", "x\ny\nz\n"), written(tmp_path / "a.de", "x\ny\n")
    bad = {
        (one, two): "a.en has 3 lines and " + str(two) + " has 2; aligned files have equally many",
        (one,): "a.en, line 1: no tab; a line is source, tab, target",
        (written(tmp_path / "e.tsv", "\n"),): "e.tsv is empty; it needs at least one pair",
        (tmp_path / "none.tsv",): "none.tsv does not exist",
    }
    for files, message in bad.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            read_pairs(files)


def test_held_out_pairs_are_taken_at_even_distances() -> None:
    pairs = [(str(i), str(i)) for i in range(20)]
    corpus = split_pairs(pairs, train_share=0.8)
    assert [int(source) for source, _ in corpus.held_out] == [4, 9, 14, 19]
    assert set(corpus.train) | set(corpus.held_out) == set(pairs)
    assert len(corpus.train) == 16


def test_too_few_pairs_to_split_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("1 pairs cannot be split at data.train_share (0.9)")):
        split_pairs([("a", "b")], train_share=0.9)
