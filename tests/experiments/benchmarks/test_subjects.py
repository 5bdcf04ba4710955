"""Healthy subjects: every one learns, at every size, and each seed builds a model of its own."""

import pytest
import torch

from diagnostics.bench import open_bench
from diagnostics.subject import Subject
from experiments.benchmarks import subjects

STEPS, LEARNED = 100, 0.75
SIZED = [name for name in subjects.HEALTHY if name != "encoder-decoder"]


def losses_of(subject: Subject, steps: int = STEPS) -> list[float]:
    """Training losses on fresh batches."""
    with open_bench(subject, seed=0) as bench:
        return bench.train(bench.fresh_batches(), steps)


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_healthy_subject_learns(name: str) -> None:
    losses = losses_of(subjects.HEALTHY[name]())
    assert sum(losses[-10:]) < LEARNED * sum(losses[:10])


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_a_subject_is_named_and_builds_a_model_for_each_seed(name: str) -> None:
    subject = subjects.HEALTHY[name]()
    assert subject.name == name
    assert subject.build is not None
    one, same, other = (torch.cat([p.flatten() for p in subject.build(s).parameters()]) for s in (2, 2, 3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", SIZED)
def test_a_subject_takes_its_sizes(name: str) -> None:
    small, large = (subjects.SIZED[name](width=width, layers=3, dropout=0.2, lr=1e-3) for width in (10, 22))
    counts = [sum(p.numel() for p in subject.model.parameters()) for subject in (small, large)]
    assert counts[0] < counts[1]
    assert len(losses_of(large, steps=2)) == 2


@pytest.mark.parametrize("name", subjects.HEALTHY)
def test_the_view_of_a_subject_gives_back_its_own_batch(name: str) -> None:
    subject = subjects.HEALTHY[name]()
    view = subject.token_view
    if view is None:
        pytest.skip("no token view")
    batch = next(subject.batches(0))
    again = view.with_tokens(batch, view.tokens(batch))
    torch.manual_seed(0)
    before = subject.loss(subject.model, batch)
    torch.manual_seed(0)
    assert torch.equal(before, subject.loss(subject.model, again))
    assert view.logits(subject.model, batch).shape == (*view.targets(batch).shape, view.vocab_size)
