"""The bridge from a run to a subject: the same loss, honest windows, and a repair for every switch."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.faults import CATALOGUE
from diagnostics.subject import Subject
from experiments.config import DefectsConfig, RunConfig, differences, override
from experiments.data import Prepared, prepare
from experiments.recipes import recipe
from experiments.record import RunRecord
from experiments.subject import (
    HELDOUT_WINDOWS,
    KEPT_TENSORS,
    REPAIRS,
    _spread_windows,
    repaired_config,
    subject_of,
    switches,
)
from experiments.training import train

IDS = {fault.id for fault in CATALOGUE}
DEFECTS = {name.replace("_", "-") for name in DefectsConfig.all().present()}
OPTIMIZATION = {"learning-rate-too-high", "no-warm-up", "no-gradient-clipping"}
VOCABULARY = {"vocabulary-too-large", "whole-sentences-as-tokens"}


def trained(config: RunConfig, folder: Path) -> RunRecord:
    return train(config, folder=folder, say=lambda line: None)


def text_of(config: RunConfig) -> Prepared:
    """The text of a run, its tokenizer and its ids."""
    data = prepare(config)
    assert isinstance(data, Prepared)
    return data


def test_every_defect_and_setting_of_the_stuck_recipe_is_a_switch() -> None:
    assert switches(recipe("stuck")) == DEFECTS | OPTIMIZATION | VOCABULARY


def test_every_switch_is_the_id_of_a_fault() -> None:
    assert switches(recipe("stuck")) | set(REPAIRS) <= IDS


def test_a_healthy_recipe_offers_no_switch_for_what_is_not_wrong_with_it() -> None:
    assert switches(recipe("small")) == frozenset()


@pytest.mark.parametrize("fault", sorted(switches(recipe("stuck"))))
def test_a_switch_of_the_stuck_recipe_removes_its_fault_and_nothing_else(fault: str) -> None:
    stuck = recipe("stuck")
    after = repaired_config(stuck, frozenset([fault]))
    assert switches(stuck) - switches(after) - {fault} <= VOCABULARY  # a vocabulary of words is a small one as well
    assert fault not in switches(after)
    assert differences(stuck, after)


def test_everything_repaired_is_a_run_without_defects_and_without_switches() -> None:
    after = repaired_config(recipe("stuck"), switches(recipe("stuck")))
    assert after.defects == DefectsConfig()
    assert switches(after) == frozenset()
    assert (after.optim.lr, after.optim.clip_norm, after.tokenizer.split) == (3e-3, 1.0, "gpt4")


def test_nothing_repaired_is_the_same_run() -> None:
    assert repaired_config(recipe("stuck"), frozenset()) == recipe("stuck")


def test_repairs_do_not_depend_on_their_order() -> None:
    one_by_one = recipe("stuck")
    for fault in sorted(switches(one_by_one), reverse=True):
        one_by_one = repaired_config(one_by_one, frozenset([fault]))
    assert one_by_one == repaired_config(recipe("stuck"), switches(recipe("stuck")))


def test_a_repair_never_makes_a_setting_worse_that_was_sound_already() -> None:
    sound = override(
        recipe("stuck"), {"optim.lr": 1e-4, "optim.clip_norm": 0.5, "optim.warmup_steps": 97, "tokenizer.split": "gpt4"}
    )
    after = repaired_config(sound, frozenset([*OPTIMIZATION, "whole-sentences-as-tokens"]))
    assert (after.optim, after.tokenizer.split) == (sound.optim, "gpt4")


def test_a_language_model_has_its_embedding_shared_by_the_models_own_setting() -> None:
    untied = override(recipe("small"), {"model.tie_weights": False})
    assert switches(untied) == {"untied-head"}
    assert repaired_config(untied, frozenset(["untied-head"])) == recipe("small")


def test_a_repaired_subject_is_the_subject_of_the_repaired_run(tiny_stuck: RunConfig) -> None:
    faults = frozenset(["softmax-before-cross-entropy", "no-final-norm"])
    subject = subject_of(tiny_stuck)
    assert subject.repair is not None
    direct, repaired = subject_of(repaired_config(tiny_stuck, faults)), subject.repair(faults)
    assert repaired.switches == direct.switches == subject.switches - faults
    assert repaired.name == subject.name
    assert loss_of_first_batch(repaired, 7) == loss_of_first_batch(direct, 7) != loss_of_first_batch(subject, 7)


def loss_of_first_batch(subject: Subject, seed: int) -> float:
    """As at the first step of training: a fresh model in training mode, with that seed's batch and dropout."""
    with open_bench(subject, seed) as bench:
        return float(bench.loss().detach())


@pytest.mark.parametrize("kind", ["tiny", "tiny_stuck", "tiny_pairs"])
def test_the_subjects_loss_is_the_one_that_training_logged_first(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config: RunConfig = override(request.getfixturevalue(kind), {"train.steps": 2, "optim.label_smoothing": 0.1})
    first = trained(config, tmp_path / "run").rows()[0]
    assert first["step"] == 1
    assert loss_of_first_batch(subject_of(config), config.seed) == pytest.approx(first["train/loss"], rel=1e-6)


@pytest.mark.parametrize("kind", ["tiny", "tiny_stuck"])
def test_training_on_a_bench_goes_on_as_training_itself(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config: RunConfig = override(request.getfixturevalue(kind), {"train.steps": 5})
    logged = [row["train/loss"] for row in trained(config, tmp_path / "run").rows() if "train/loss" in row]
    with open_bench(subject_of(config), config.seed) as bench:
        assert bench.train(bench.fresh_batches(), 5) == pytest.approx(logged, rel=1e-5)


def test_the_standing_model_is_the_one_that_the_record_left(tiny: RunConfig, tmp_path: Path) -> None:
    record = trained(tiny, tmp_path / "run")
    standing, fresh = subject_of(tiny, record).model, subject_of(tiny).model
    left = torch.load(record.checkpoint_path, weights_only=True)["model"]
    assert all(torch.equal(value, left[name]) for name, value in standing.state_dict().items())
    assert not all(torch.equal(value, left[name]) for name, value in fresh.state_dict().items())


def test_a_checkpoint_of_another_model_is_refused(tiny: RunConfig, tmp_path: Path) -> None:
    record = trained(override(tiny, {"train.steps": 1}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not fit the configuration"):
        subject_of(override(tiny, {"model.d_model": 15}), record)


def test_heldout_windows_are_windows_of_the_heldout_text_and_of_no_other(tiny: RunConfig) -> None:
    config = override(tiny, {"data.train_share": 0.6})
    data, subject = text_of(config), subject_of(config)
    assert subject.heldout is not None
    windows = torch.cat(list(subject.heldout(0)))
    every = data.held_out.unfold(0, config.data.context + 1, 1)
    assert 1 < len(windows) <= len(every)
    assert all((every == window).all(dim=1).any() for window in windows)
    assert data.corpus.train + data.corpus.held_out == Path(str(config.corpus.source)).read_text()


def test_heldout_windows_spread_over_the_text_and_are_always_the_same(tiny: RunConfig) -> None:
    subject, data = subject_of(tiny), text_of(tiny)
    assert subject.heldout is not None
    once, again = (torch.cat(list(subject.heldout(seed))) for seed in (0, 1))
    assert torch.equal(once, again)
    length = tiny.data.context + 1
    assert torch.equal(once[0], data.held_out[:length])
    step = math.ceil((len(data.held_out) - length + 1) / HELDOUT_WINDOWS)
    assert torch.equal(once[1], data.held_out[step : step + length])
    assert len(once) == len(range(0, len(data.held_out) - length + 1, step))


def test_a_long_text_gives_no_more_windows_than_are_needed() -> None:
    ids = torch.arange(2 * HELDOUT_WINDOWS - 1)
    found = torch.cat(list(_spread_windows(ids, context=2)))
    assert HELDOUT_WINDOWS / 2 < len(found) <= HELDOUT_WINDOWS
    assert found[-1, -1] == ids[-1]


@pytest.mark.parametrize("kind", ["tiny", "tiny_stuck"])
def test_the_token_view_reads_back_what_it_wrote(kind: str, request: pytest.FixtureRequest) -> None:
    subject = subject_of(request.getfixturevalue(kind))
    view = subject.token_view
    assert view is not None
    with open_bench(subject, 0) as bench:
        batch = bench.batch()
        other = view.tokens(batch).roll(1, dims=0)
        edited = view.with_tokens(batch, other)
        assert torch.equal(view.tokens(edited), other)
        assert torch.equal(view.targets(edited), other[:, 1:])
        scores = view.logits(bench.model, edited)
        assert scores.shape == (*view.targets(edited).shape, view.vocab_size)


def test_a_healthy_models_next_logits_are_the_last_ones_of_training_without_dropout(tiny: RunConfig) -> None:
    view = subject_of(tiny).token_view
    assert view is not None
    assert view.next_logits is not None
    with open_bench(subject_of(tiny), 0) as bench, torch.no_grad():
        model, batch = bench.model, bench.batch()
        drawn = view.next_logits(model, view.tokens(batch)[:, :-1])
        assert model.training
        assert torch.equal(drawn, view.logits(model.eval(), batch)[:, -1])


def test_the_text_view_spells_the_heldout_text(tiny: RunConfig) -> None:
    view, data = subject_of(tiny).text_view, text_of(tiny)
    assert view is not None
    spelled = b"".join(view.token_bytes[token] for token in view.heldout_tokens.tolist())
    assert spelled == data.corpus.held_out.encode()
    assert view.heldout_bytes == len(spelled)


def test_pairs_make_a_subject_without_views_of_tokens_or_text(tiny_pairs: RunConfig) -> None:
    subject = subject_of(tiny_pairs)
    assert (subject.token_view, subject.text_view) == (None, None)
    assert subject.heldout is not None
    assert next(subject.heldout(0)) is not None
    with open_bench(subject, 0) as bench:
        losses = bench.train(bench.one_batch(), 3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("keeps", [True, False])
def test_the_history_holds_tensors_with_a_graph_only_where_the_run_kept_them(
    keeps: bool, tiny_stuck: RunConfig, tmp_path: Path
) -> None:
    config = override(tiny_stuck, {"defects.history_keeps_the_graph": keeps, "train.steps": 7})
    history = subject_of(config, trained(config, tmp_path / "run")).history
    assert history is not None
    assert len(history.losses) == 7
    graphs = [loss for loss in history.losses if isinstance(loss, Tensor) and loss.grad_fn is not None]
    assert len(graphs) == (KEPT_TENSORS if keeps else 0)
    assert all(isinstance(loss, float) for loss in history.losses[: 7 - len(graphs)])


def test_without_a_record_there_is_no_history(tiny: RunConfig) -> None:
    assert subject_of(tiny).history is None


def test_a_subject_is_called_by_its_run_unless_told_otherwise(tiny: RunConfig) -> None:
    assert subject_of(tiny).name == "tiny"
    assert subject_of(tiny, name="mine").name == "mine"


def test_passes_are_endless_and_decided_by_the_seed(tiny: RunConfig) -> None:
    subject = subject_of(tiny)
    assert len(list(islice(subject.batches(3), 1009))) == 1009
    assert torch.equal(next(subject.batches(3)), next(subject.batches(3)))
    assert not torch.equal(next(subject.batches(3)), next(subject.batches(5)))


def test_data_are_read_once_for_runs_that_differ_in_the_model_alone(tiny: RunConfig) -> None:
    view = subject_of(tiny).text_view
    other = subject_of(replace(tiny, name="other", seed=11)).text_view
    assert view is not None
    assert other is not None
    assert view.train_tokens is other.train_tokens
