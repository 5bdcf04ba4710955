"""A recording is cut into steps of the training loop."""

import weakref

import torch

from diagnostics.capture.recording import (
    Backward,
    Clip,
    Event,
    Pass,
    Recording,
    Unscale,
    Update,
    Window,
    ZeroGrad,
    windows_of,
)


def drop(optimizer: int | None = 0) -> ZeroGrad:
    return ZeroGrad(optimizer=optimizer)


def back(scale: float = 1.0) -> Backward:
    value = torch.tensor(2.0)
    return Backward(value=value, forward=None, alive=weakref.ref(value), scale=scale)


def update(optimizer: int = 0) -> Update:
    return Update(optimizer=optimizer, settings=({"lr": 0.1},))


def cut(*events: Event) -> list[tuple[Event, ...]]:
    return [window.events for window in windows_of(events)]


def test_each_step_of_one_optimizer_ends_a_window() -> None:
    first, second = (drop(), back(), update()), (drop(), back(), update())
    assert cut(*first, *second) == [first, second]


def test_two_optimizers_that_step_together_share_a_window() -> None:
    first, second = [(drop(0), drop(1), back(), update(0), update(1)) for _ in range(2)]
    assert cut(*first, *second) == [first, second]


def test_two_optimizers_in_turns_share_a_window() -> None:
    first, second = [(drop(0), back(), update(0), drop(1), back(), update(1)) for _ in range(2)]
    assert cut(*first, *second) == [first, second]


def test_an_optimizer_that_steps_twice_as_often_makes_windows_with_and_without_the_other() -> None:
    critic, both = (back(), update(0)), (back(), update(0), back(), update(1))
    assert cut(*critic, *both, *critic, *both) == [critic, both, critic, both]


def test_accumulated_passes_share_a_window() -> None:
    step = (drop(), back(), back(), back(), update())
    assert cut(*step, *step) == [step, step]
    assert [len(window.backwards) for window in windows_of(step * 2)] == [3, 3]


def test_what_comes_after_the_last_step_belongs_to_no_window() -> None:
    step = (drop(), back(), update())
    assert cut(*step, drop(), back()) == [step]


def test_what_comes_before_the_first_step_belongs_to_its_window() -> None:
    began = Pass(loader=3, data=5, length=7)
    first = (began, drop(), back(), update())
    assert cut(*first, back(), update())[0] == first


def test_without_a_step_there_is_no_window() -> None:
    assert cut() == []
    assert cut(drop(), back(), back()) == []


def test_no_event_before_the_last_step_is_lost_or_told_twice() -> None:
    events = [back(), update(0), drop(), back(), update(1), update(0), update(0), drop(None), update(2), update(1)]
    assert [id(event) for window in windows_of(events) for event in window.events] == list(map(id, events))


def test_a_window_tells_its_events_by_kind_and_the_largest_scale() -> None:
    events = (drop(), back(), back(scale=1024.0), Unscale(optimizer=0), Clip(kind="norm", limit=1.0), update())
    window = Window(events=events)
    assert window.backwards == events[1:3]
    assert window.clips == events[4:5]
    assert window.updates == events[5:]
    assert window.scale == 1024.0
    assert Window(events=()).scale == 1.0


def test_the_steps_of_a_recording_are_its_windows() -> None:
    recording = Recording(name="train.py", events=[back(), update(), back(), update(), back()])
    assert recording.steps == 2
    assert len(recording.windows) == 2
