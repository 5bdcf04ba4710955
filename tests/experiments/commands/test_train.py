"""`unplateau train` and `unplateau generate`: from a recipe to text."""

import json
import re

import pytest
import torch

from experiments.record import RunRecord
from experiments.tasks import task


def test_training_tells_evaluations_the_record_the_best_and_the_next_step(run, small, tmp_path) -> None:
    ended = run("train", *small, "--out", tmp_path / "run")
    lines = ended.out.splitlines()
    record = RunRecord.open(tmp_path / "run")
    best = min(row["val/bits_per_byte"] for row in record.rows() if "val/bits_per_byte" in row)
    assert ended.code == 0
    assert re.match(r"epoch \S+  step 3  train \d\.\d{3}  val \d\.\d{3}  \d\.\d\d bits/byte", lines[0])
    assert lines[-3:] == [
        f"record      {tmp_path / 'run'}",
        f"best        {best:.3f} bits/byte on held-out text, at step 3",
        f"next        unplateau generate {tmp_path / 'run'}",
    ]
    assert record.state == "finished"


def test_a_resumed_run_goes_on_in_its_folder(run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    ended = run("train", "--resume", tmp_path / "run", "--set", "train.steps=5")
    assert ended.code == 0
    assert RunRecord.open(tmp_path / "run").rows()[-1]["step"] == 5


def test_resuming_with_other_settings_than_the_run_had_is_refused(run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    ended = run("train", "--resume", tmp_path / "run", "--set", "model.d_model=16")
    assert ended.code == 2
    assert "model.d_model (16) differs from the run" in ended.err


@pytest.mark.parametrize("option", ["--recipe", "--out"])
def test_what_a_resumed_run_has_decided_cannot_be_given(option, run, tmp_path) -> None:
    ended = run("train", "--resume", tmp_path, option, "small")
    assert ended.code == 2
    assert f"{option} (small) and --resume exclude each other" in ended.err


def test_a_folder_with_a_run_is_not_overwritten(run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    ended = run("train", *small, "--out", tmp_path / "run")
    assert ended.code == 2
    assert f"{tmp_path / 'run'} already holds a run; go on with it by --resume" in ended.err


def test_a_language_model_continues_the_prompt_and_a_seed_decides_how(run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    wanted = ("generate", tmp_path / "run", "--prompt", "The lamp", "--tokens", 11, "--seed", 5)
    first, second = run(*wanted), run(*wanted)
    assert first.code == 0
    assert first.out.startswith("The lamp")
    assert first.out == second.out
    assert run("generate", tmp_path / "run", "--greedy", "--tokens", 7).code == 0


def test_a_beam_finds_no_less_likely_a_text_than_the_greedy_choice(run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    searched = run("generate", tmp_path / "run", "--beam", 1, "--tokens", 3)
    assert searched.out == run("generate", tmp_path / "run", "--greedy", "--tokens", 3).out


def test_a_run_can_write_when_its_corpus_is_gone(run, small, text_file, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    text_file.unlink()
    assert run("generate", tmp_path / "run", "--tokens", 3).code == 0


def test_a_stuck_run_writes_as_its_own_code_does(run, stuck, tmp_path) -> None:
    assert run("train", *stuck, "--out", tmp_path / "run").code == 0
    first = run("generate", tmp_path / "run", "--prompt", "The", "--tokens", 13)
    assert (first.code, first.err) == (0, "")
    assert first.out == run("generate", tmp_path / "run", "--prompt", "The", "--tokens", 13).out
    assert "a stuck run draws its text" in run("generate", tmp_path / "run", "--beam", 2).err


def test_a_run_on_pairs_translates_by_beam_search(run, tiny_pairs, tmp_path) -> None:
    from experiments.training import train

    record = train(tiny_pairs, folder=tmp_path / "run", say=lambda line: None)
    ended = run("generate", record.folder, "--prompt", "lamp quay", "--tokens", 5, "--beam", 3)
    asked = task(tiny_pairs)
    model = asked.build(0)
    model.load_state_dict(torch.load(record.checkpoint_path, weights_only=True)["model"])
    assert ended.out.rstrip("\n") == asked.translated(model, ["lamp quay"], max_new_tokens=5, beam_size=3)[0].rstrip(
        "\n"
    )
    assert "no line to translate" in run("generate", record.folder).err
    assert "draws nothing" in run("generate", record.folder, "--prompt", "lamp", "--greedy").err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "0"], "temperature (0.0) must be above 0"),
        (["--top-p", "2"], "top_p (2.0)"),
        (["--beam", "2", "--greedy"], "--beam searches and draws nothing"),
        (["--prompt", ""], "the prompt is empty"),
    ],
)
def test_settings_of_the_drawing_are_checked(options, message, run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    ended = run("generate", tmp_path / "run", *options)
    assert ended.code == 2
    assert message in ended.err


def test_no_run_is_one_line(run, tmp_path) -> None:
    ended = run("generate", tmp_path)
    assert (ended.code, ended.err) == (2, f"unplateau: {tmp_path} holds no run: it has no config.json\n")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("checkpoint.pt", "nothing", "checkpoint.pt is damaged"),
        ("tokenizer/tokenizer.json", "{}", "tokenizer.json"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "train"])
def test_a_damaged_run_is_one_line(file, content, message, command, run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    ended = run(*(["generate"] if command == "generate" else ["train", "--resume"]), tmp_path / "run")
    if (command, file) == ("train", "tokenizer/tokenizer.json"):
        assert ended.code == 0  # learned again from the corpus
        return
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_weights_of_another_model_are_one_line(run, small, tmp_path) -> None:
    run("train", *small, "--out", tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    tree = json.loads(path.read_text())
    tree["model"]["d_model"] = 16
    path.write_text(json.dumps(tree))
    ended = run("generate", tmp_path / "run")
    assert ended.code == 2
    assert "checkpoint.pt does not fit the configuration" in ended.err
    assert ended.err.count("\n") == 1
