import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.config import RunConfig, override
from experiments.data import END, START, special_id
from experiments.stuck import StuckModel
from experiments.tasks import IGNORED, AnyTask, StuckNextToken, Task, Translation, task

KINDS = ("tiny", "tiny_stuck", "tiny_pairs")


@pytest.fixture(params=KINDS)
def any_task(request: pytest.FixtureRequest) -> AnyTask:
    """A task of each kind."""
    return task(request.getfixturevalue(request.param))


def test_the_seed_decides_the_weights_and_leaves_the_callers_chance(any_task: AnyTask) -> None:
    before = torch.get_rng_state()
    one, same, other = (list(any_task.build(seed).parameters()) for seed in (3, 3, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_loss_is_the_cross_entropy_of_logits_and_targets(any_task: Task[object]) -> None:
    model = any_task.build(0).eval()
    batch = next(any_task.batches(0, 0))
    logits, targets = any_task.logits(model, batch), any_task.targets(batch)
    chosen = targets != IGNORED
    expected = F.cross_entropy(logits[chosen], targets[chosen])
    assert any_task.count(batch) == int(chosen.sum())
    torch.testing.assert_close(any_task.loss_sum(model, batch) / any_task.count(batch), expected)


def test_label_smoothing_is_the_cross_entropy_with_the_smoothed_target(tiny_pairs: RunConfig) -> None:
    found = task(tiny_pairs)
    assert isinstance(found, Translation)
    model, batch = found.build(0).eval(), next(found.batches(0, 0))
    targets = found.targets(batch)
    chosen = targets != IGNORED
    log_p = found.logits(model, batch)[chosen].log_softmax(-1)
    smoothed = 0.9 * F.one_hot(targets[chosen], log_p.shape[-1]) + 0.1 / log_p.shape[-1]
    torch.testing.assert_close(found.loss_sum(model, batch, label_smoothing=0.1), -(smoothed * log_p).sum())


def test_parts_have_the_gradient_of_the_whole_batch(any_task: Task[object]) -> None:
    model = any_task.build(0).double().eval()
    batch = next(any_task.batches(0, 0))

    def gradients(parts: list[object]) -> list[Tensor]:
        model.zero_grad()
        for part in parts:
            (any_task.loss_sum(model, part) / any_task.count(batch)).backward()
        return [each.grad.clone() for each in model.parameters() if each.grad is not None]

    for whole, added in zip(gradients([batch]), gradients(any_task.parts(batch, 5)), strict=True):
        torch.testing.assert_close(added, whole, rtol=1e-5, atol=1e-8)


def test_a_sample_is_text_that_chance_decides(any_task: AnyTask) -> None:
    model = any_task.build(0)
    samples = [
        any_task.sample(model, num_tokens=13, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    ]
    assert samples[0] == samples[1]
    assert samples[0].strip()
    if not isinstance(any_task, Translation):  # a beam search needs no chance
        assert samples[0] != samples[2]


def test_a_sample_may_be_longer_than_the_context(tiny: RunConfig) -> None:
    found = task(tiny)
    assert not isinstance(found, Translation)
    prompt = torch.tensor([[2, 3, 5]])
    longer = found.continued(found.build(0), prompt, 29, torch.Generator().manual_seed(0))
    assert longer.shape == (1, 32)
    assert torch.equal(longer[:, :3], prompt)


def test_the_stuck_model_is_asked_for_the_very_tokens_that_it_reads(tiny_stuck: RunConfig) -> None:
    found = task(tiny_stuck)
    assert isinstance(found, StuckNextToken)
    model = found.build(0).eval()
    assert isinstance(model, StuckModel)
    batch = next(found.batches(0, 0))
    x, y = batch[:, :-1], batch[:, 1:]
    assert torch.equal(found.logits(model, batch), model(x, y))
    assert torch.equal(found.targets(batch), y)
    assert torch.equal(x[:, 1:], y[:, :-1])


@pytest.mark.parametrize("name", ["softmax_before_cross_entropy", "untied_head"])
def test_repairing_a_defect_reaches_the_model(tiny_stuck: RunConfig, name: str) -> None:
    broken, repaired = (task(override(tiny_stuck, {f"defects.{name}": is_on})).build(0) for is_on in (True, False))
    assert isinstance(broken, StuckModel)
    assert isinstance(repaired, StuckModel)
    assert (getattr(broken.defects, name), getattr(repaired.defects, name)) == (True, False)


def test_translation_learns_to_write_the_line_after_its_start_and_to_end_it(tiny_pairs: RunConfig) -> None:
    found = task(tiny_pairs)
    assert isinstance(found, Translation)
    batch = next(found.batches(0, 0))
    start, end = special_id(found.tokenizer, START), special_id(found.tokenizer, END)
    targets = found.targets(batch)
    lengths = (targets != IGNORED).sum(dim=1)
    assert (batch.target[:, 0] == start).all()
    assert (targets.gather(1, lengths[:, None] - 1) == end).all()
    assert (targets == start).sum() == 0


def test_padding_does_not_change_the_loss(tiny_pairs: RunConfig) -> None:
    found = task(tiny_pairs)
    assert isinstance(found, Translation)
    model, batch = found.build(0).eval(), next(found.batches(0, 0))
    separately = sum(float(found.loss_sum(model, part).detach()) for part in found.parts(batch, 5))
    assert float(found.loss_sum(model, batch).detach()) == pytest.approx(separately, rel=1e-5)
