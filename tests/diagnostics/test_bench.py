"""The bench: private, seeded, and training as the subject trains."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from diagnostics.bench import FROZEN_STEPS, Step, open_bench, passes, private_randomness, random_tokens
from diagnostics.subject import Subject
from tests import subjects


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_model_is_built_from_the_seed() -> None:
    subject = subjects.gru()
    with open_bench(subject, 3) as one, open_bench(subject, 3) as again, open_bench(subject, 5) as other:
        assert torch.equal(parameters(one.model), parameters(again.model))
        assert not torch.equal(parameters(one.model), parameters(other.model))


def test_without_a_builder_the_model_is_a_copy_of_the_standing_one() -> None:
    subject = replace(subjects.gru(), build=None)
    with open_bench(subject, 3) as bench:
        assert bench.model is not subject.model
        assert torch.equal(parameters(bench.model), parameters(subject.model))


def test_training_leaves_the_standing_model_alone() -> None:
    subject = replace(subjects.gru(), build=None)
    before = parameters(subject.model).clone()
    with open_bench(subject, 3) as bench:
        bench.train(bench.fresh_batches(), 3)
        assert not torch.equal(parameters(bench.model), before)
        assert torch.equal(parameters(bench.standing_model()), before)
    assert torch.equal(parameters(subject.model), before)


def draw_and_fail() -> None:
    with private_randomness(3):
        random.random()
        torch.rand(5)
        raise RuntimeError("of the subject's own")


def test_the_random_state_comes_back_even_after_an_error() -> None:
    random.seed(7)
    torch.manual_seed(7)
    python, torch_state = random.getstate(), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="of the subject's own"):
        draw_and_fail()
    assert random.getstate() == python
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_gradients_are_on_inside_whatever_the_caller_does() -> None:
    with torch.no_grad(), open_bench(subjects.mlp(), 0) as bench:
        assert bench.loss().requires_grad


def test_batches_are_kept_and_belong_to_the_seed() -> None:
    subject = subjects.gru()
    with open_bench(subject, 3) as bench:
        assert torch.equal(bench.batch(2), bench.batch(2))
        assert torch.equal(bench.batch(2), list(islice(subject.batches(3), 3))[2])
        assert torch.equal(next(bench.fresh_batches()), bench.batch(0))
        assert [id(batch) for batch in islice(bench.one_batch(), 3)] == [id(bench.batch(0))] * 3


def test_a_pass_is_followed_by_another_one_in_another_order() -> None:
    first, second = 0, subjects.BATCHES_PER_PASS
    batches = list(islice(passes(subjects.gru().batches, 3), second + 1))
    assert not torch.equal(batches[first], batches[second])


def test_heldout_batches_are_those_kept_apart_or_else_training_ones() -> None:
    subject = subjects.gru()
    assert subject.heldout is not None
    with open_bench(subject, 3) as bench:
        apart = bench.heldout_batches(2)
        assert all(map(torch.equal, apart, islice(subject.heldout(3), 2)))
    with open_bench(replace(subject, heldout=None), 3) as bench:
        assert all(map(torch.equal, bench.heldout_batches(2), [bench.batch(0), bench.batch(1)]))


def plain_training(subject: Subject, steps: int) -> list[float]:
    """The same steps, written out as a user would."""
    assert subject.build is not None
    with private_randomness(3):
        model = subject.build(3).train()
        torch.manual_seed(3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
        losses = []
        for step, batch in enumerate(islice(subject.batches(3), steps)):
            for group in optimizer.param_groups:
                group["lr"] = 0.5 * (step + 1) / 10
            optimizer.zero_grad()
            loss = subject.loss(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_steps_are_those_of_the_subject_with_its_schedule_and_clipping() -> None:
    subject = replace(
        subjects.encoder_decoder(),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=0.5),
        schedule=lambda step: (step + 1) / 10,
        clip_norm=0.1,
    )
    with open_bench(subject, 3) as bench:
        assert bench.train(bench.fresh_batches(), 5) == plain_training(subject, 5)


def test_callbacks_see_the_step_before_and_after_its_update() -> None:
    seen: list[tuple[str, int, float]] = []

    def note(when: str, step: Step) -> None:
        seen.append((when, step.index, float(parameters(step.model).sum())))

    with open_bench(subjects.mlp(), 0) as bench:
        bench.train(
            bench.one_batch(),
            2,
            before_update=lambda step: note("before", step),
            after_update=lambda step: note("after", step),
        )
    assert [(when, index) for when, index, _ in seen] == [("before", 0), ("after", 0), ("before", 1), ("after", 1)]
    assert seen[0][2] != seen[1][2]
    assert seen[1][2] == seen[2][2]


def test_training_stops_where_the_loss_is_low_enough() -> None:
    with open_bench(subjects.mlp(), 0) as bench:
        losses = bench.train(bench.one_batch(), 500, stop_below=0.2)
    assert losses[-1] < 0.2 <= min(losses[:-1])


def test_training_stops_where_nothing_has_a_gradient_any_more() -> None:
    dead = replace(subjects.mlp(), loss=lambda model, batch: 0 * model(batch[0]).sum())
    with open_bench(dead, 0) as bench:
        assert len(bench.train(bench.one_batch(), 500)) == FROZEN_STEPS


def test_training_stops_at_a_loss_that_is_not_finite() -> None:
    broken = replace(subjects.mlp(), loss=lambda model, batch: model(batch[0]).sum() * float("nan"))
    with open_bench(broken, 0) as bench:
        assert len(bench.train(bench.one_batch(), 500)) == 1


def test_a_pass_of_one_batch_is_no_end() -> None:
    def one(seed: int) -> Iterator[Tensor]:
        yield torch.tensor([seed])

    assert [int(batch) for batch in islice(passes(one, 0), 3)] == [0, 7919, 2 * 7919]


def test_random_tokens_are_the_same_for_the_same_seed_and_within_the_vocabulary() -> None:
    view = subjects.gru().token_view
    assert view is not None
    like = torch.zeros(31, 7, dtype=torch.int32)
    drawn = random_tokens(view, like, 5)
    assert torch.equal(drawn, random_tokens(view, like, 5))
    assert not torch.equal(drawn, random_tokens(view, like, 7))
    assert (drawn.shape, drawn.dtype) == (like.shape, like.dtype)
    assert set(drawn.flatten().tolist()) == set(range(subjects.VOCAB))


def test_a_probe_that_forgets_to_name_the_token_view_is_our_bug() -> None:
    with open_bench(subjects.mlp(), 0) as bench, pytest.raises(AssertionError, match="does not name in needs"):
        _ = bench.tokens
