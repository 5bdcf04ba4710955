"""Small loops under watch: what is wrong is told once, in one line, and a healthy one is left alone."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.capture.alarms import Gradients
from diagnostics.capture.recording import Recording
from diagnostics.capture.standstill import Standstill
from diagnostics.capture.vitals import block_of, norms_by_depth
from diagnostics.capture.watching import EVERY, Watch

CLASSES = 5
Loss = Callable[[Tensor, Tensor], Tensor]


def model_of(*, last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, CLASSES), last or nn.Identity())


class Told:
    """What a watch told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.rows: list[dict[str, float]] = []
        self.stands: list[Standstill] = []
        self.losses: list[float] = []


@contextmanager
def watched() -> Iterator[tuple[Watch, Told]]:
    told = Told()
    watch = Watch(
        Recording(name="loop"),
        warn=told.lines.append,
        log=lambda row: told.rows.append(dict(row)),
        stands=told.stands.append,
    )
    with watch:
        yield watch, told


def train(
    model: nn.Module,
    steps: int,
    *,
    loss: Loss = F.cross_entropy,
    held: nn.Module | None = None,
    lr: float = 1e-2,
    scale: Callable[[int], float] = lambda step: 1.0,
) -> Told:
    optimizer = torch.optim.AdamW((held or model).parameters(), lr=lr, weight_decay=0.0)
    with watched() as (_, told):
        for step in range(1, steps + 1):
            x = torch.randn(13, 7)
            value = loss(model(x * scale(step)), x[:, :CLASSES].argmax(-1))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            told.losses.append(value.item())
    return told


def test_a_healthy_loop_is_left_alone() -> None:
    told = train(model_of(), 300)
    assert told.lines == []
    assert told.stands == []


def test_rows_come_at_the_first_steps_and_then_now_and_then() -> None:
    told = train(model_of(), 3 * EVERY + 1)
    assert [row["step"] for row in told.rows] == [1, 2, 3, EVERY, 2 * EVERY, 3 * EVERY]
    assert [row["train/loss"] for row in told.rows] == [told.losses[int(row["step"]) - 1] for row in told.rows]
    assert told.rows[-1]["level/uniform"] == math.log(CLASSES)
    assert told.rows[-1]["optim/lr"] == 1e-2


def test_the_norms_are_those_of_torch() -> None:
    model = model_of()
    told = train(model, EVERY)
    given = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert told.rows[-1]["grad/norm"] == pytest.approx(float(nn.utils.get_total_norm(given)), rel=1e-5)
    blocks = [told.rows[-1][f"grad/norm/{block}"] for block in ("0", "2")]
    assert told.rows[-1]["grad/norm"] == pytest.approx(math.hypot(*blocks))


def test_probabilities_for_scores_are_told_at_the_first_step_and_once() -> None:
    told = train(model_of(last=nn.Softmax(-1)), 60)
    assert told.lines == [
        "step 1: every row of 5 numbers handed to the cross-entropy sums to 1; it takes logits and applies the softmax "
        "itself"
    ]


def test_a_loss_within_the_model_is_seen_too() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model_of(last=nn.Softmax(-1))

        def forward(self, x: Tensor) -> Tensor:
            return F.cross_entropy(self.body(x), x[:, :CLASSES].argmax(-1))

    told = train(WithLoss(), 3, loss=lambda value, targets: value)
    assert len(told.lines) == 1


def test_parameters_that_no_optimizer_holds_are_told() -> None:
    model = model_of()
    told = train(model, 60, held=model[2])
    assert told.lines == ["step 10: no optimizer holds 2 of 4 parameters that get a gradient (0.weight, 0.bias)"]


def test_an_optimizer_that_has_not_stepped_yet_holds_its_parameters() -> None:
    model = model_of()
    later = torch.optim.SGD(model[0].parameters(), lr=0.1)
    told = train(model, 20, held=model[2])
    assert told.lines == []
    assert len(later.param_groups) == 1


def test_matrices_that_never_move_are_told() -> None:
    told = train(model_of(), 60, lr=0.0)
    assert told.lines == ["step 50: 2 of 2 matrices have not moved since the start (0.weight, 2.weight)"]


def test_a_module_that_is_not_used_has_no_reason_to_move() -> None:
    model = model_of()
    model.spare = nn.Linear(3, 3)
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    assert train(model, 60).lines == []


def test_a_gradient_of_zero_is_told() -> None:
    told = train(model_of(), 60, loss=lambda scores, targets: F.cross_entropy(scores * 0, targets))
    assert told.lines[0] == "step 30: gradient exactly zero in 2 of 2 matrices (0.weight, 2.weight)"


def test_a_loss_that_stands_on_the_uniform_level_is_told() -> None:
    told = train(model_of(), 60, loss=lambda scores, targets: F.cross_entropy(scores * 0, targets))
    expected = "step 50: the loss has stood at 1.60944 for 50 steps, exactly on the level uniform"
    assert any(line.startswith(expected) for line in told.lines)


class RootOfNegative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


def test_a_loss_that_is_nan_from_the_start_is_told_with_its_module() -> None:
    told = train(model_of(last=RootOfNegative()), 5)
    assert told.lines[0].startswith("step 1: gradient not finite in 4 of 4 parameters")
    assert told.lines[1] == "step 1: the loss is nan; the first output that is not finite is that of 3"
    assert len(told.lines) == 2


class Bomb(nn.Module):
    """Infinite where what comes in grows too large."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0

    def forward(self, x: Tensor) -> Tensor:
        self.at += 1
        return x if self.at < 27 else x * math.inf


def test_a_loss_that_becomes_infinite_later_is_told_with_its_module_and_step() -> None:
    told = train(model_of(last=Bomb()), 40)
    assert told.lines[0] == "step 27: the loss is nan; the first output that is not finite is that of 3"


def test_a_loss_that_stands_still_is_told_once() -> None:
    told = train(model_of(), 450, lr=0.0)
    assert len(told.stands) == 1
    assert told.stands[0].level == pytest.approx(sum(told.losses[:400]) / 400, abs=0.1)


def test_a_watch_leaves_torch_as_it_was() -> None:
    before = nn.Module.__call__, torch.autograd.backward, torch._C._len_torch_function_stack()
    train(model_of(), 25)
    assert (nn.Module.__call__, torch.autograd.backward, torch._C._len_torch_function_stack()) == before


def test_torch_calls_a_watch_in_few_steps_only() -> None:
    """In the first ones, and then in every tenth; in one of 500 there are two modes, of which one looks at the loss."""
    depths: list[int] = []

    def loss(scores: Tensor, targets: Tensor) -> Tensor:
        depths.append(torch._C._len_torch_function_stack())
        return F.cross_entropy(scores, targets)

    train(model_of(), 521, loss=loss)
    assert depths[:20] == [2, *[1] * 19]
    assert depths[20:40] == [1, *[0] * 9] * 2
    assert depths[490:521] == [1, *[0] * 9, 2, *[0] * 9, 1, *[0] * 9, 1]


def test_a_watch_changes_no_loss() -> None:
    told = train(model_of(), 60)
    model, losses = model_of(), list[float]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        x = torch.randn(13, 7)
        loss = F.cross_entropy(model(x), x[:, :CLASSES].argmax(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert told.losses == losses


def test_blocks_are_told_apart_by_their_number() -> None:
    assert block_of("decoder.layers.3.attention.weight") == "decoder.layers.3"
    assert block_of("head.weight") == "head"


def test_no_gradient_has_no_norm() -> None:
    assert norms_by_depth(Gradients(step=1, norms=(), matrices=frozenset())) == {}
