"""`unplateau show`: the signs of merges that went too far."""

SONG = "Light the lamp\nand walk along the water.\n" * 13


def raw_tokenizer(run, tmp_path):
    (tmp_path / "song.txt").write_text(SONG)
    raw = ("--alphabet", "characters", "--split", "none", "--stop-early", "--format", "tokenizer-json")
    run("tokenize", tmp_path / "song.txt", "--vocab-size", 60, *raw, "--format", "three-files", "--out", tmp_path / "t")
    return tmp_path / "t"


def test_whole_lines_are_shown_with_their_counts(run, tmp_path) -> None:
    ended = run("show", raw_tokenizer(run, tmp_path))
    assert ended.code == 0
    assert f"measured on {tmp_path / 't' / 'tokens.txt'}" in ended.out
    assert "whole lines that are one token" in ended.out
    assert "Light the lamp\\nand walk" in ended.out
    assert ended.out.splitlines()[-1] == "next        unplateau explain whole-sentences-as-tokens"


def test_a_word_split_has_no_token_across_words(run, tokenizer, text_file) -> None:
    ended = run("show", tokenizer, text_file, "--top", 3)
    spanning = next(line for line in ended.out.splitlines() if "tokens across words" in line)
    assert spanning.split()[3] == "0"
    assert "whole lines that are one token" not in ended.out
    longest = ended.out.partition("longest tokens\n")[2].partition("\n\n")[0].splitlines()
    assert len(longest) == 1 + 3


def test_a_vocabulary_of_rare_types_points_to_its_card(run, tokenizer, tmp_path) -> None:
    (tmp_path / "short.txt").write_text("The lamp and the quay.")
    ended = run("show", tokenizer, tmp_path / "short.txt")
    assert ended.out.splitlines()[-1] == "next        unplateau explain vocabulary-too-large"


def test_output_fits_80_columns(run, tmp_path) -> None:
    ended = run("show", raw_tokenizer(run, tmp_path))
    assert max(len(line) for line in ended.out.splitlines()[1:]) <= 80


def test_a_run_shows_its_own_tokenizer(run, small, text_file, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    ended = run("show", tmp_path / "run", text_file)
    assert ended.code == 0
    assert " 277 " in ended.out
