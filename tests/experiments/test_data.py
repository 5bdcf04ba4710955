import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bpe
from experiments.config import RunConfig, override
from experiments.data import (
    END,
    PADDING,
    START,
    Prepared,
    PreparedPairs,
    bytes_per_token,
    cache_folder,
    held_out_pairs,
    held_out_windows,
    pair_batch,
    prepare,
    special_id,
    training_pairs,
    training_windows,
)
from experiments.recipes import base


@pytest.fixture
def prepared(tiny: RunConfig) -> Prepared:
    found = prepare(tiny)
    assert isinstance(found, Prepared)
    return found


@pytest.fixture
def pairs_config(tmp_path: Path) -> RunConfig:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{'a ' * (i % 7 + 1)}\t{'b ' * (i % 5 + 1)}\n" for i in range(53)))
    changes = {"corpus.pairs": (str(path),), "tokenizer.vocab_size": 260, "data.batch_size": 3, "data.context": 13}
    return override(base(), {**changes, "data.train_share": 0.8})


@given(
    num_tokens=st.integers(12, 300), context=st.integers(1, 11), seed=st.integers(0, 2**31), epoch=st.integers(0, 99)
)
def test_windows_are_pieces_of_the_text_side_by_side(num_tokens: int, context: int, seed: int, epoch: int) -> None:
    ids = torch.arange(num_tokens)
    batches = list(training_windows(ids, context=context, batch_size=1, seed=seed, epoch=epoch))
    windows = torch.cat(batches)
    assert torch.equal(windows, windows[:, :1] + torch.arange(context + 1))
    starts = windows[:, 0].sort().values
    assert torch.equal(starts, starts[0] + context * torch.arange(len(starts)))


def test_windows_depend_on_seed_and_epoch_and_on_nothing_else() -> None:
    ids = torch.arange(211)

    def windows(seed: int, epoch: int) -> torch.Tensor:
        torch.rand(1)
        return torch.cat(list(training_windows(ids, context=7, batch_size=5, seed=seed, epoch=epoch)))

    assert torch.equal(windows(3, 2), windows(3, 2))
    assert not torch.equal(windows(3, 2), windows(3, 1))
    assert not torch.equal(windows(3, 2), windows(2, 2))


def test_every_epoch_has_the_same_number_of_full_batches() -> None:
    ids = torch.arange(211)
    shapes = [
        [tuple(each.shape) for each in training_windows(ids, context=7, batch_size=5, seed=0, epoch=e)]
        for e in range(5)
    ]
    assert shapes == [[(5, 8)] * 5] * 5


def test_over_epochs_every_token_is_seen() -> None:
    ids = torch.arange(53)
    seen = {
        int(token)
        for epoch in range(200)
        for batch in training_windows(ids, context=5, batch_size=1, seed=0, epoch=epoch)
        for token in batch.flatten()
    }
    assert seen == set(range(53))


def test_held_out_windows_cover_the_text_once_in_order() -> None:
    batches = list(held_out_windows(torch.arange(38), context=5, batch_size=3))
    assert [len(each) for each in batches] == [3, 3, 1]
    assert torch.cat(batches)[:, 1:].flatten().tolist() == list(range(1, 36))


def test_a_batch_larger_than_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("batch_size (11) must be at most 3, the windows of 5 tokens")):
        training_windows(torch.arange(23), context=5, batch_size=11, seed=0, epoch=0)


def test_prepared_ids_are_the_text(prepared: Prepared) -> None:
    assert prepared.tokenizer.decode(prepared.train.tolist()) == prepared.corpus.train
    assert prepared.tokenizer.decode(prepared.held_out.tolist()) == prepared.corpus.held_out


def test_bytes_per_token_add_up_to_the_bytes_of_the_text(prepared: Prepared) -> None:
    lengths = bytes_per_token(prepared.tokenizer)
    assert int(lengths[prepared.held_out].sum()) == prepared.corpus.held_out_bytes
    assert int(lengths[prepared.train].sum()) == prepared.corpus.train_bytes


def test_special_tokens_have_no_bytes() -> None:
    tokenizer = bpe.train(["aa"], vocab_size=258, special_tokens=(PADDING,))
    assert bytes_per_token(tokenizer)[special_id(tokenizer, PADDING)] == 0


@pytest.mark.parametrize(("share", "part"), [(0.999, "held-out"), (0.001, "training")])
def test_a_part_shorter_than_one_window_is_refused(tiny: RunConfig, share: float, part: str) -> None:
    config = override(tiny, {"data.train_share": share, "data.context": 2000, "tokenizer.learn_from": "all"})
    with pytest.raises(ValueError, match=rf"the {part} text has \d+ tokens, too short for one window .*\(2001\)"):
        prepare(config)


def test_the_second_time_the_tokenizer_comes_from_the_cache(
    tiny: RunConfig, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*args: object, **kwargs: object) -> None:
        raise AssertionError("the tokenizer was trained again")

    monkeypatch.setattr(bpe, "train", no_training)
    again = prepare(tiny)
    assert isinstance(again, Prepared)
    assert torch.equal(again.train, prepared.train)
    assert again.tokenizer == prepared.tokenizer
    with pytest.raises(AssertionError, match="trained again"):
        prepare(override(tiny, {"tokenizer.vocab_size": 281}))


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tiny: RunConfig, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("a file where the cache would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "occupied"))
    again = prepare(tiny)
    assert isinstance(again, Prepared)
    assert torch.equal(again.train, prepared.train)


def test_a_damaged_cache_is_made_anew(tiny: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = prepare(tiny)
    (entry,) = cache_folder().iterdir()
    (entry / "ids.json").write_text("[[1, 2")
    again = prepare(tiny)
    assert isinstance(first, Prepared)
    assert isinstance(again, Prepared)
    assert torch.equal(again.train, first.train)


def test_what_merges_are_learned_from_can_include_the_held_out_text(tmp_path: Path, tiny: RunConfig) -> None:
    path = tmp_path / "shift.txt"
    path.write_text("ab ab ab ab\n" * 20 + "xyz xyz xyz\n" * 20)
    config = override(tiny, {"corpus.source": path, "data.train_share": 0.5, "tokenizer.vocab_size": 258})
    lengths = []
    for learn_from in ("train", "all"):
        found = prepare(override(config, {"tokenizer.learn_from": learn_from}))
        assert isinstance(found, Prepared)
        lengths.append(len(found.held_out))
    assert lengths[1] < lengths[0]


def test_pairs_are_padded_and_framed_by_start_and_end(pairs_config: RunConfig) -> None:
    tokenizer = prepare(pairs_config).tokenizer
    padding, start, end = (special_id(tokenizer, name) for name in (PADDING, START, END))
    batch = pair_batch([([2, 3, 5], [7]), ([11], [2, 3])], tokenizer)
    assert batch.source.tolist() == [[2, 3, 5], [11, padding, padding]]
    assert batch.target.tolist() == [[start, 7, end, padding], [start, 2, 3, end]]
    assert batch.source_is_padding.tolist() == [[False, False, False], [False, True, True]]
    assert batch.target_is_padding.tolist() == [[False, False, False, True], [False] * 4]


def test_an_epoch_of_pairs_has_each_pair_once(pairs_config: RunConfig) -> None:
    found = prepare(pairs_config)
    assert isinstance(found, PreparedPairs)
    pairs = [([i], [i] * (i % 5 + 1)) for i in range(53)]
    batches = list(training_pairs(pairs, batch_size=3, seed=1, epoch=2, tokenizer=found.tokenizer))
    seen = [int(row[0]) for batch in batches for row in batch.source]
    assert len(seen) == len(set(seen)) == 51
    again = list(training_pairs(pairs, batch_size=3, seed=1, epoch=2, tokenizer=found.tokenizer))
    assert [each.source.tolist() for each in again] == [each.source.tolist() for each in batches]
    other = list(training_pairs(pairs, batch_size=3, seed=1, epoch=3, tokenizer=found.tokenizer))
    assert [each.source.tolist() for each in other] != [each.source.tolist() for each in batches]


def test_held_out_pairs_come_in_order_to_the_last_one(pairs_config: RunConfig) -> None:
    tokenizer = prepare(pairs_config).tokenizer
    batches = list(held_out_pairs([([i], [i]) for i in range(5)], batch_size=2, tokenizer=tokenizer))
    assert [row for batch in batches for row in batch.source.flatten().tolist()] == list(range(5))


def test_pairs_longer_than_the_context_are_left_out_and_counted(pairs_config: RunConfig) -> None:
    whole = prepare(pairs_config)
    short = prepare(override(pairs_config, {"data.context": 5}))
    assert isinstance(whole, PreparedPairs)
    assert isinstance(short, PreparedPairs)
    assert short.left_out > whole.left_out == 0
    assert all(max(len(source), len(target)) <= 5 for source, target in short.train + short.held_out)
    assert len(short.train) + len(short.held_out) + short.left_out == 53


def test_a_seq2seq_run_without_usable_pairs_is_refused(pairs_config: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"corpus\.pairs is None; model\.kind 'seq2seq' learns from pairs"):
        prepare(base())
    found = prepare(pairs_config)
    assert isinstance(found, PreparedPairs)
    with pytest.raises(ValueError, match=re.escape("batch_size (97) must be at most 42, the number of training pairs")):
        training_pairs(found.train, batch_size=97, seed=0, epoch=0, tokenizer=found.tokenizer)


def test_no_pair_that_fits_is_refused(tmp_path: Path, pairs_config: RunConfig) -> None:
    path = tmp_path / "long.tsv"
    path.write_text("one two three four five\tsix seven eight nine ten\n" * 7)
    config = override(pairs_config, {"corpus.pairs": (str(path),), "data.context": 1})
    with pytest.raises(ValueError, match=re.escape("no pair fits into data.context (1 tokens); use a larger one")):
        prepare(config)
