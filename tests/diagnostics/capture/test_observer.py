"""The observer leaves torch as it was, and keeps what it must."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.overrides import _get_current_function_mode

from diagnostics.capture.observer import Observer
from diagnostics.capture.recorder import IDLE_BYTES
from diagnostics.capture.recording import Backward, Clip, Recording, Update, ZeroGrad
from tests.diagnostics.capture.loops import Tokens, language_model

ENTRIES = (
    (nn.Module, "__call__"),
    (nn.Module, "zero_grad"),
    (torch.autograd, "backward"),
    (nn.utils, "clip_grad_norm_"),
    (nn.utils.clip_grad, "clip_grad_norm_"),
    (nn.utils, "clip_grad_value_"),
    (torch.optim.Optimizer, "zero_grad"),
    (torch.amp.GradScaler, "scale"),
    (LRScheduler, "__init__"),
)


def entries() -> list[object]:
    """What stands at every place that an observer replaces."""
    return [getattr(owner, name) for owner, name in ENTRIES]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_of_torch_stays_replaced_after_an_error(error: type[BaseException]) -> None:
    before, mode = entries(), _get_current_function_mode()
    with pytest.raises(error), Observer(Recording(name="fails")):
        language_model(after=lambda model, optimizer, step: (_ for _ in ()).throw(error()))
    assert entries() == before
    assert _get_current_function_mode() is mode


def test_nothing_stays_replaced_after_an_error_inside_a_step() -> None:
    class Fails(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            raise ValueError("inside")

    before = entries()
    with pytest.raises(ValueError, match="inside"), Observer(Recording(name="fails")):
        language_model(optimizer=lambda parameters: Fails(parameters, lr=0.1))
    assert entries() == before


def test_no_hook_of_the_optimizers_stays() -> None:
    hooks = _global_optimizer_pre_hooks, _global_optimizer_post_hooks
    before = [dict(each) for each in hooks]
    with Observer(Recording(name="watched")):
        assert [len(each) for each in hooks] == [len(each) + 1 for each in before]
    assert [dict(each) for each in hooks] == before


def test_events_come_in_the_order_of_the_loop() -> None:
    recording = Recording(name="ordered")
    with Observer(recording):
        language_model(clip=lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))
    assert [type(each) for each in recording.events] == [ZeroGrad, Backward, Clip, Update] * 5
    assert recording.steps == 5


def test_many_forward_passes_without_a_step_keep_a_bounded_number_of_calls() -> None:
    model, observer = Tokens(), Observer(Recording(name="generates"))
    with observer, torch.no_grad():
        for _ in range(7):
            observer.recorder.idle_bytes += IDLE_BYTES // 2
            model(torch.zeros(1, 2, dtype=torch.long))
            assert len(observer.recorder.nodes) <= 7
